-- When a link is followed, and where its visitors go after that. Unix milliseconds; NULL where there is none.
ALTER TABLE links ADD COLUMN starts_ms INTEGER;
ALTER TABLE links ADD COLUMN expires_ms INTEGER;
ALTER TABLE links ADD COLUMN expired_url TEXT;
