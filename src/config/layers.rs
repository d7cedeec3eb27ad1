//! Where values come from: flag over environment over file over `default.toml`, each with its [`Origin`].
//!
//! Knows which keys exist (those of `default.toml`) and how they are spelled elsewhere, never what a good value is: that
//! is `check`. The only place of the program that reads the environment, in [`Sources::from_process`]. Limits: the file
//! and the files of secrets are read whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use toml::de::{DeTable, DeValue};

use super::check::{self, Machine};
use super::problem::nearest;
use super::units::Value;
use super::{Config, DEFAULTS, Origin, Problem, Problems};

const PREFIX: &str = "TRELLIS_";
/// Names the file when no flag does.
const FILE_VARIABLE: &str = "TRELLIS_CONFIG";
/// Variables of the test services; no settings.
const TEST_PREFIX: &str = "TRELLIS_TEST_";
const TEST_FOLDER_VARIABLE: &str = "TRELLIS_SERVICES_DIR";

/// Keys whose values are never shown, and whose variable has a twin with `_FILE`.
pub const SECRETS: [&str; 8] = [
    "control.token",
    "dedup.secret",
    "privacy.ip_secret",
    "redis.url",
    "store.clickhouse.password",
    "warden.grpc.token",
    "warden.pepper",
    "warden.serve.token",
];

/// What people wrote, before anything is read from it.
#[derive(Clone, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `TRELLIS_` are passed over.
    pub env: Vec<(String, String)>,
    /// Keys and values of the command line; of two with one key the later counts.
    pub flags: Vec<(String, String)>,
}

/// Names only: a value may be a secret.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let (env, flags) = (names(&self.env), names(&self.flags));
        f.debug_struct("Sources").field("file", &self.file).field("env", &env).field("flags", &flags).finish()
    }
}

impl Sources {
    /// What the command line gave, and the environment of this process. With no `file`, `TRELLIS_CONFIG` names it.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let mut env: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        env.sort();
        let named = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
        Self { file: file.or_else(|| named.map(PathBuf::from)), env, flags }
    }
}

impl Config {
    /// Reads the file that the sources name, if any, and the files of secrets; checks everything.
    ///
    /// # Errors
    /// Everything that is wrong, at once; of a file that cannot be read or is no TOML, only that.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let Some(path) = &sources.file else {
            return Self::from_text(sources, "");
        };
        match fs::read_to_string(path) {
            Ok(text) => Self::from_text(sources, &text),
            Err(error) => Err(Problems(vec![Problem {
                key: String::new(),
                value: None,
                origin: Origin::File { path: path.clone(), line: 0 },
                message: format!("cannot be read: {error}"),
            }])),
        }
    }

    /// As [`Config::load`], with `text` as the content of the file.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn from_text(sources: &Sources, text: &str) -> Result<Self, Problems> {
        check::check(Layers::new(sources, text)?, &Machine::this())
    }
}

/// One key.
pub(super) struct Setting {
    /// In `default.toml`.
    pub(super) default: Value,
    /// In the highest layer that has one.
    pub(super) value: Value,
    /// Where that is.
    pub(super) origin: Origin,
}

/// Every key, and what was wrong so far.
pub(super) struct Layers {
    /// By full name.
    pub(super) settings: BTreeMap<String, Setting>,
    /// In no order.
    pub(super) problems: Vec<Problem>,
    /// Keys that were written, but have no value to judge.
    pub(super) bad: BTreeSet<String>,
}

impl Layers {
    /// Puts the layers on each other.
    ///
    /// # Errors
    /// The text is no TOML.
    pub(super) fn new(sources: &Sources, text: &str) -> Result<Self, Problems> {
        let mut layers = Self::of_file(DEFAULTS, sources.file.as_deref().unwrap_or(Path::new("config")), text)?;
        for (variable, value) in sources.env.iter().filter(|(variable, _)| is_setting(variable)) {
            layers.take_variable(variable, value, &sources.env);
        }
        for (key, value) in &sources.flags {
            layers.take_text(key, value, Origin::Flag);
        }
        Ok(layers)
    }

    /// The keys of `defaults`, a file that is built in, with what the file at this path says of them.
    ///
    /// # Errors
    /// The text is no TOML.
    pub(super) fn of_file(defaults: &str, path: &Path, text: &str) -> Result<Self, Problems> {
        let mut layers = Self { settings: BTreeMap::new(), problems: Vec::new(), bad: BTreeSet::new() };
        let defaults = DeTable::parse(defaults).expect("the file that is built in is TOML: a test loads it");
        layers.take_defaults("", defaults.get_ref());
        let at = |start: usize| Origin::File {
            path: path.to_owned(),
            line: 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count(),
        };
        let file = DeTable::parse(text).map_err(|error| {
            let origin = at(error.span().map_or(0, |span| span.start));
            let message = format!("is not TOML: {}", error.message());
            Problems(vec![Problem { key: String::new(), value: None, origin, message }])
        })?;
        layers.take_table("", file.get_ref(), &at);
        Ok(layers)
    }

    fn take_defaults(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = join(section, name.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                self.take_defaults(&key, inner);
            } else {
                let value = Value::from(value.get_ref());
                let setting = Setting { default: value.clone(), value, origin: Origin::Default };
                self.settings.insert(key, setting);
            }
        }
    }

    fn take_table(&mut self, section: &str, table: &DeTable<'_>, at: &dyn Fn(usize) -> Origin) {
        for (name, value) in table {
            let (key, origin) = (join(section, name.get_ref()), at(name.span().start));
            let known = self.settings.contains_key(&key);
            match value.get_ref() {
                DeValue::Table(inner) if self.is_section(&key) => self.take_table(&key, inner, at),
                DeValue::Table(_) if known => {
                    self.problem(&key, None, origin, "takes a value, not a section".into());
                    self.bad.insert(key);
                }
                DeValue::Table(_) => {
                    let sections: BTreeSet<_> = self.sections().map(str::to_owned).collect();
                    let near = nearest(&key, sections.iter(), |section| section.clone());
                    self.problem(&key, None, origin, format!("is not a section{near}"));
                }
                value if known => self.set(&key, Value::from(value), origin),
                _ if self.is_section(&key) => {
                    // Not the value: under `control` or `redis` people may have put the secret itself.
                    let message = format!("is a section: write [{key}] and its keys below");
                    self.problem(&key, None, origin, message);
                }
                _ => self.unknown(&key, origin),
            }
        }
    }

    fn take_variable(&mut self, variable: &str, value: &str, env: &[(String, String)]) {
        let origin = Origin::Env { variable: variable.to_owned() };
        let key = variable.strip_prefix(PREFIX).unwrap_or(variable).replace("__", ".").to_ascii_lowercase();
        let of_file = key.strip_suffix("_file").filter(|key| SECRETS.contains(key));
        if value.contains(char::REPLACEMENT_CHARACTER) {
            self.problem(&key, None, origin, "is not UTF-8".into());
            self.bad.insert(key);
        } else if self.settings.contains_key(&key) && variable_of(&key) == variable {
            self.take_text(&key, value, origin);
        } else if let Some(key) = of_file.filter(|key| format!("{}_FILE", variable_of(key)) == variable) {
            let twin = variable_of(key);
            if env.iter().any(|(other, _)| *other == twin) {
                self.problem(key, None, origin, format!("{twin} is set too; keep one of them"));
                self.bad.insert(key.to_owned());
                return;
            }
            match fs::read_to_string(value) {
                Ok(text) => {
                    let line = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
                    self.set(key, Value::Text(line.to_owned()), origin);
                }
                Err(error) => {
                    // Not the path: people put the secret itself here.
                    self.problem(key, None, origin, format!("the file that it names cannot be read: {error}"));
                    self.bad.insert(key.to_owned());
                }
            }
        } else {
            let near = nearest(&key, self.settings.keys(), |key| variable_of(key));
            self.problem("", None, origin, format!("is not a variable of Trellis{near}"));
        }
    }

    /// A value without TOML's types: the default says what it should be.
    fn take_text(&mut self, key: &str, text: &str, origin: Origin) {
        match self.settings.get(key) {
            Some(setting) => {
                let value = interpret(text, &setting.default);
                self.set(key, value, origin);
            }
            None => self.unknown(key, origin),
        }
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) {
        if let Some(setting) = self.settings.get_mut(key) {
            setting.value = value;
            setting.origin = origin;
        }
    }

    fn unknown(&mut self, key: &str, origin: Origin) {
        let near = nearest(key, self.settings.keys(), |key| key.clone());
        self.problem(key, None, origin, format!("is not a setting{near}"));
    }

    /// Notes what is wrong; the value of a secret is not shown.
    pub(super) fn problem(&mut self, key: &str, value: Option<&Value>, origin: Origin, message: String) {
        let value = value.map(|value| if SECRETS.contains(&key) { "***".into() } else { value.to_string() });
        self.problems.push(Problem { key: key.to_owned(), value, origin, message });
    }

    fn is_section(&self, key: &str) -> bool {
        self.sections().any(|section| section == key)
    }

    /// `store` and `store.clickhouse` of `store.clickhouse.url`; with repetitions.
    fn sections(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..dot]))
    }
}

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(flag) => Self::Boolean(*flag),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => Self::Integer(number),
                Err(_) => Self::Other(digits.to_string()),
            },
            DeValue::Float(digits) => Self::Other(digits.to_string()),
            DeValue::Datetime(date) => Self::Other(date.to_string()),
            DeValue::Array(items) => Self::List(items.iter().map(|item| Self::from(item.get_ref())).collect()),
            DeValue::Table(_) => Self::Other("{...}".into()),
        }
    }
}

/// Text of the environment or the command line as a value of the default's kind; as text when it is none.
fn interpret(text: &str, default: &Value) -> Value {
    let as_text = || Value::Text(text.to_owned());
    match default {
        Value::Integer(_) => text.trim().parse().map_or_else(|_| as_text(), Value::Integer),
        Value::Boolean(_) => text.trim().parse().map_or_else(|_| as_text(), Value::Boolean),
        Value::List(_) if text.trim_start().starts_with('[') => {
            DeValue::parse(text.trim()).map_or_else(|_| as_text(), |list| Value::from(list.get_ref()))
        }
        Value::List(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::List(items.map(|item| Value::Text(item.to_owned())).collect())
        }
        Value::Text(_) | Value::Other(_) => as_text(),
    }
}

fn is_setting(variable: &str) -> bool {
    variable.starts_with(PREFIX)
        && !variable.starts_with(TEST_PREFIX)
        && ![FILE_VARIABLE, TEST_FOLDER_VARIABLE].contains(&variable)
}

/// `edge.listen` is `TRELLIS_EDGE__LISTEN`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// A name that needs quotes keeps them: a dot in it makes no path, a line break no second line.
fn join(section: &str, name: &str) -> String {
    let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if section.is_empty() { name } else { format!("{section}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(env: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        Sources { file: Some("my.toml".into()), env: owned(env), flags: owned(flags) }
    }

    fn told(sources: &Sources, text: &str) -> Vec<String> {
        Config::from_text(sources, text).unwrap_err().as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn five_mistakes_are_all_told_with_key_value_file_and_line() {
        let text =
            "[edge]\nlisten = \"nonsense\"\nheaders = 9\n[batch]\nrows_max = 0\nage_max = \"1 s\"\n[egde]\nx = 1\n";
        let expected = [
            "my.toml:2: edge.listen = \"nonsense\": is not an address such as 0.0.0.0:8080",
            "my.toml:3: edge.headers: is not a setting; did you mean edge.headers_max?",
            "my.toml:5: batch.rows_max = 0: must be 1 to 1000000",
            "my.toml:6: batch.age_max = \"1 s\": is not a time such as 250ms, 30s, 10m, 24h or 7d",
            "my.toml:7: egde: is not a section; did you mean edge?",
        ];
        assert_eq!(told(&sources(&[], &[]), text), expected);
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let text = "edge.threads = 2\nbatch.rows_max = 2\nedge.headers_max = 20";
        let env = [("TRELLIS_EDGE__THREADS", "3"), ("TRELLIS_BATCH__ROWS_MAX", "3"), ("TRELLIS_TEST_X", "")];
        let config = Config::from_text(&sources(&env, &[("edge.threads", "9"), ("edge.threads", "4")]), text).unwrap();
        let (edge, batch) = (config.edge, config.batch);
        assert_eq!((edge.threads, batch.rows_max, edge.headers_max, batch.in_flight_max), (4, 3, 20, 4));
        for list in ["10.0.0.0/8, ::1", "[\"10.0.0.0/8\", \"::1\"]"] {
            let env = [("TRELLIS_EDGE__TRUSTED_PROXIES", list), ("TRELLIS_STORE__MIGRATE", "false")];
            let config = Config::from_text(&sources(&env, &[]), "").unwrap();
            assert_eq!((config.edge.trusted_proxies.len(), config.store.migrate), (2, false));
        }
    }

    #[test]
    fn a_secret_may_stand_in_a_file_and_is_never_shown() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"hunter2-hunter2-hunter2\n").unwrap();
        let path = file.path().to_str().unwrap();
        let env = [("TRELLIS_CONTROL__TOKEN_FILE", path), ("TRELLIS_STORE__CLICKHOUSE__PASSWORD", "hunter2")];
        let good =
            sources(&env, &[("dedup.secret", "hunter2-hunter2-hunter2"), ("redis.url", "redis://:hunter2@host")]);
        let config = Config::from_text(&good, "").unwrap();
        assert_eq!(config.control.token.expose(), "hunter2-hunter2-hunter2");
        assert!(!format!("{config:?} {good:?}").contains("hunter2"));
        let env = [env[0], ("TRELLIS_CONTROL__TOKEN", "hunter2"), ("TRELLIS_DEDUP__SECRET_FILE", "/hunter2/none")];
        let text = "redis.url = \"hunter2\"\nstore.clickhouse.url = \"http://a:hunter2@b\"\ncontrol.tokn = \"hunter2\"\n\
                    store.clickhouse.password = [\"hunter2\"]";
        let told = told(&sources(&env, &[]), text);
        assert!(told.len() == 7 && !told.concat().contains("hunter2"), "{told:#?}");
        assert!(told[0].starts_with("my.toml:1: redis.url = ***: is not a URL"), "{told:#?}");
    }

    #[test]
    fn unknown_names_are_told_with_the_nearest_known_one() {
        let env = [
            ("TRELLIS_EDGE_LISTEN", "x"),
            ("TRELLIS_EDGE__LISTEN_FILE", "x"),
            ("TRELLIS_QUUX", "x"),
            ("TRELLIS_REDIS__TRIES", "2"),
        ];
        let text = "\"edge.listen\" = 1\nedge.pool = 1\nstore = 1\nzzz = 1\nedge.threads.x = 1\nbatch.retry_max = 1\n";
        let expected = [
            "my.toml:1: \"edge.listen\": is not a setting; did you mean edge.listen?",
            "my.toml:2: edge.pool: is not a setting; did you mean redis.pool?",
            "my.toml:3: store: is a section: write [store] and its keys below",
            "my.toml:4: zzz: is not a setting",
            "my.toml:5: edge.threads: takes a value, not a section",
            "my.toml:6: batch.retry_max: is not a setting; did you mean retry.insert.max?",
            "TRELLIS_EDGE_LISTEN: is not a variable of Trellis; did you mean TRELLIS_EDGE__LISTEN?",
            "TRELLIS_EDGE__LISTEN_FILE: is not a variable of Trellis",
            "TRELLIS_QUUX: is not a variable of Trellis",
            "TRELLIS_REDIS__TRIES: is not a variable of Trellis; did you mean TRELLIS_RETRY__DEDUP__TRIES?",
            "command line: edge.lisetn: is not a setting; did you mean edge.listen?",
        ];
        assert_eq!(told(&sources(&env, &[("edge.lisetn", "1")]), text), expected);
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_with_its_line_and_nothing_else() {
        let told = told(&sources(&[("TRELLIS_QUUX", "x")], &[]), "[edge]\nlisten = \"a\"\ncontrol.token = hunter2\n");
        assert!(told.len() == 1 && told[0].starts_with("my.toml:3: is not TOML: "), "{told:?}");
        let missing = Config::load(&sources(&[], &[])).unwrap_err().to_string();
        assert!(missing.starts_with("my.toml: cannot be read: "), "{missing}");
        assert!(SECRETS.iter().all(|key| Layers::new(&Sources::default(), "").unwrap().settings.contains_key(*key)));
    }
}
