-- How much of its visit a click kept: full, limited or none. Clicks of before kept all that `privacy.ip` left them.
ALTER TABLE clicks ADD COLUMN privacy TEXT NOT NULL DEFAULT 'full';
