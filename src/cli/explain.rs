//! `trellis explain`: where a visit would go, and why.
//!
//! One request to the control API, which decides; nothing is recorded. Judges nothing itself but that a file is JSON.

use std::path::PathBuf;

use anyhow::Context as _;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::Api;
use super::links::text;
use super::output::{Out, Stop, cell};
use crate::config::Config;

/// `trellis explain`
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
What is not given is not there: without --user-agent (and without --device, --os and --browser)
the visitor is a bot. --country, --region, --city, --asn, --device, --os and --browser win over what
the address and the user agent say. Nothing is recorded, and nothing counts.

First the decision, then each rule: * takes the visit, + would take it if none before did, - does
not hold, ? is undecided, because a key is not there; a blank: it is not reached. Under it each
comparison of its condition, with what was found; < marks those that decide.

Examples:
  trellis explain spring --ip 203.0.113.9 --user-agent \"$UA\" --language de --query utm_source=mail
  trellis explain --file campaign.json --country DE --device mobile --at 2026-12-24T20:00:00Z
  trellis explain spring --click-id 019aa2b4-5f00-7123-9abc-0123456789ab --json | jq .decision"
)]
#[group(id = "subject", required = true, multiple = false, args = ["link", "campaign", "file"])]
pub(super) struct Explain {
    /// The link that is visited
    #[arg(value_name = "SLUG")]
    link: Option<String>,
    /// A campaign, whatever the link
    #[arg(long, value_name = "ID")]
    campaign: Option<String>,
    /// A campaign that is not saved: its JSON document
    #[arg(long, value_name = "JSON")]
    file: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    visit: Visit,
}

/// The visit that is supposed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The visit")]
struct Visit {
    /// The visitor's address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// User-Agent
    #[arg(long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// Accept-Language
    #[arg(long, value_name = "TEXT")]
    language: Option<String>,
    /// The host that is asked
    #[arg(long, value_name = "HOST")]
    domain: Option<String>,
    /// Referer
    #[arg(long, value_name = "URL")]
    referrer: Option<String>,
    /// Query string, without the ?
    #[arg(long, value_name = "QUERY")]
    query: Option<String>,
    /// A header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// A cookie; may be repeated
    #[arg(long = "cookie", value_name = "NAME=VALUE", value_parser = pair)]
    cookies: Vec<(String, String)>,
    /// GET or HEAD [default: GET]
    #[arg(long)]
    method: Option<String>,
    /// The browser fetches ahead of a click
    #[arg(long)]
    prefetch: bool,
    /// When, RFC 3339 or Unix milliseconds [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// The id of a click: explains that one, where each click is decided for itself
    #[arg(long, value_name = "ID")]
    click_id: Option<String>,
    /// Country, such as DE
    #[arg(long, value_name = "CODE")]
    country: Option<String>,
    /// Region, such as BY
    #[arg(long, value_name = "CODE")]
    region: Option<String>,
    /// City, in English
    #[arg(long, value_name = "NAME")]
    city: Option<String>,
    /// Number of the network
    #[arg(long, value_name = "NUMBER")]
    asn: Option<u32>,
    /// desktop, mobile, tablet, tv, bot or other
    #[arg(long)]
    device: Option<String>,
    /// System, such as Android
    #[arg(long)]
    os: Option<String>,
    /// Family, such as Chrome
    #[arg(long)]
    browser: Option<String>,
    /// Slug of the link, with --campaign or --file
    #[arg(long)]
    slug: Option<String>,
    /// A tag of the link, with --campaign or --file; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".into()),
    }
}

impl Visit {
    /// As the API wants it: with what was given, and no more.
    fn question(self) -> Result<Value, Stop> {
        let texts = [
            ("ip", self.ip),
            ("user_agent", self.user_agent),
            ("language", self.language),
            ("domain", self.domain),
            ("referrer", self.referrer),
            ("query", self.query),
            ("method", self.method),
            ("at", self.at),
            ("click_id", self.click_id),
            ("country", self.country),
            ("region", self.region),
            ("city", self.city),
            ("device", self.device),
            ("os", self.os),
            ("browser", self.browser),
            ("slug", self.slug),
        ];
        let mut visit: Map<String, Value> =
            texts.into_iter().filter_map(|(field, text)| Some((field.to_owned(), text?.into()))).collect();
        for (field, given) in [("headers", self.headers), ("cookies", self.cookies)] {
            let mut object = Map::new();
            for (name, value) in given {
                if object.contains_key(&name) {
                    return Err(anyhow::anyhow!("{field}: `{}` is given twice", cell(&name)).into());
                }
                object.insert(name, value.into());
            }
            if !object.is_empty() {
                visit.insert(field.into(), object.into());
            }
        }
        if let Some(asn) = self.asn {
            visit.insert("asn".into(), asn.into());
        }
        if self.prefetch {
            visit.insert("prefetch".into(), true.into());
        }
        if !self.tags.is_empty() {
            visit.insert("tags".into(), self.tags.into());
        }
        Ok(visit.into())
    }
}

pub(super) async fn run(config: &Config, explain: Explain) -> Result<(), Stop> {
    let Explain { link, campaign, file, visit, json } = explain;
    let mut question = json!({ "visit": visit.question()? });
    if let Some(slug) = link {
        question["link"] = slug.into();
    }
    if let Some(id) = campaign {
        question["campaign"] = id.into();
    }
    if let Some(path) = file {
        let shown = path.display();
        let document = std::fs::read(&path).with_context(|| format!("`{shown}` cannot be read"))?;
        question["document"] =
            serde_json::from_slice::<Value>(&document).with_context(|| format!("`{shown}` is no JSON"))?;
    }
    let api = Api::open(config).await?;
    let answer = api.call(Method::POST, "/explain", Some(&question)).await?;
    let mut out = Out::new();
    if json {
        out.line(&answer)?;
    } else {
        for line in lines(&answer) {
            out.line(line.trim_end())?;
        }
    }
    out.flush()
}

/// The answer for people.
fn lines(answer: &Value) -> Vec<String> {
    let mut lines = decision(&answer["decision"]);
    let warnings = list(answer, "warnings").iter().filter_map(Value::as_str);
    lines.extend(warnings.map(|told| format!("{:12}{}", "warning", cell(told))));
    let campaign = &answer["campaign"];
    if !campaign.is_null() {
        let id = if campaign["id"].is_null() { "not saved".into() } else { cell(text(campaign, "id")) };
        let version = campaign["version"].as_u64().map(|version| format!(", version {version}")).unwrap_or_default();
        let applies = if campaign["applies"] == true { "applies" } else { "does not apply" };
        lines.push(format!("{:12}{id}{version}: {applies}", "campaign"));
        lines.extend(why(campaign));
        lines.extend(dedup(&campaign["dedup"]));
    }
    lines.push(format!("{:12}{}", "visit", facts(&answer["facts"])));
    let later: Vec<_> = list(&answer["facts"], "reasons_found_later").iter().filter_map(Value::as_str).collect();
    if !later.is_empty() {
        let later = later.join(", ");
        lines.push(format!("{:12}{}", "not known", cell(&format!("{later}: found after the answer, for the record"))));
    }
    let rules = list(answer, "rules");
    let width =
        rules.iter().map(|rule| cell(text(rule, "name")).chars().count()).max().unwrap_or(0).max("default".len());
    if !rules.is_empty() || !answer["default"].is_null() {
        lines.push(String::new());
    }
    for rule in rules {
        lines.push(format!("{} {:width$}  {}", mark(rule), cell(text(rule, "name")), text(rule, "verdict")));
        lines.extend(why(rule));
        lines.extend(destinations(rule));
    }
    let default = &answer["default"];
    if !default.is_null() {
        lines.push(format!("{} {:width$}  {}", mark(default), "default", text(default, "verdict")));
        lines.extend(destinations(default));
    }
    lines
}

fn decision(decision: &Value) -> Vec<String> {
    let by = match (text(decision, "by"), text(decision, "strategy")) {
        ("rule", strategy) => {
            let (rule, variant) = (cell(text(decision, "rule")), cell(text(decision, "variant")));
            format!("rule {rule}, destination {variant} ({strategy})")
        }
        ("default", _) => format!("default, destination {}", cell(text(decision, "variant"))),
        ("fallback", _) => "the campaign's fallback_url".into(),
        ("link", _) => "the link's own url".into(),
        ("expired", _) => "the link's expired_url".into(),
        (other, _) => other.to_owned(),
    };
    let mut lines = vec![format!("{:12}{by}", "decision")];
    let mut line = |name: &str, value: String| lines.push(format!("{name:12}{value}"));
    if let Some(destination) = decision["destination"].as_str() {
        line("goes to", cell(destination));
    }
    let numbers = ["status", "route_version"].map(|field| decision[field].as_u64());
    let [status, version] = numbers.map(|number| number.map(|number| number.to_string()));
    let version = version.map(|version| format!("route version {version}"));
    let answered: Vec<_> = [status, version].into_iter().flatten().collect();
    if !answered.is_empty() {
        line("answered", answered.join(", "));
    }
    if let Some(note) = decision["note"].as_str() {
        line("note", cell(note));
    }
    lines
}

/// A campaign's own rule for duplicates.
fn dedup(dedup: &Value) -> Option<String> {
    let by: Vec<_> = list(dedup, "by").iter().filter_map(Value::as_str).collect();
    let by = (!by.is_empty()).then(|| format!("by {}", by.join(" and ")));
    let within = dedup["window"].as_str().map(|window| format!("within {window}"));
    let told: Vec<_> = by.into_iter().chain(within).collect();
    (!told.is_empty()).then(|| format!("{:12}{}", "duplicates", cell(&told.join(" "))))
}

/// What is known, and no empty texts: `country=DE`.
fn facts(facts: &Value) -> String {
    let simple = facts.as_object().into_iter().flatten().filter_map(|(name, value)| {
        let value = match value {
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) => cell(text),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return None,
        };
        Some(format!("{name}={value}"))
    });
    simple.collect::<Vec<_>>().join(" ")
}

fn mark(of: &Value) -> char {
    match text(of, "verdict") {
        "taken" => '*',
        "would take" => '+',
        "does not hold" => '-',
        "undecided" => '?',
        _ => ' ',
    }
}

/// Each comparison: what it is, the comparison, what was found.
fn why(of: &Value) -> Vec<String> {
    let parts = list(of, "why");
    let width = parts.iter().map(|part| cell(text(part, "part")).chars().count()).max().unwrap_or(0).min(60);
    let line = |part: &Value| {
        let found = part["found"].as_object().into_iter().flatten().map(|(name, value)| match value {
            Value::Null => format!("no {}", cell(name)),
            value => format!("{} is {}", cell(name), cell(&value.to_string())),
        });
        let found = found.collect::<Vec<_>>().join(", ");
        let decides = if part["decides"] == true { '<' } else { ' ' };
        format!("    {:7} {decides} {:width$}  {found}", text(part, "truth"), cell(text(part, "part")))
    };
    parts.iter().map(line).collect()
}

/// Each destination with its share, the chosen one marked; of a round robin the turns.
fn destinations(of: &Value) -> Vec<String> {
    let to = list(of, "to");
    let width = to.iter().map(|to| cell(text(to, "name")).chars().count()).max().unwrap_or(0);
    let line = |to: &Value| {
        let share = to["share"].as_f64().unwrap_or_default() * 100.0;
        let chosen = if to["chosen"] == true { '>' } else { ' ' };
        let bid = to["bid"].as_f64().map(|bid| format!("  bid {bid}")).unwrap_or_default();
        format!("  {chosen} {share:5.1} %   {:width$}  {}{bid}", cell(text(to, "name")), cell(text(to, "url")))
    };
    let mut lines: Vec<_> = to.iter().map(line).collect();
    let turns: Vec<_> = list(of, "turns").iter().map(|turn| cell(turn.as_str().unwrap_or_default())).collect();
    if !turns.is_empty() {
        lines.push(format!("    turns     {} ...", turns.join(" ")));
    }
    lines
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_aligned_lines() {
        let answer = json!({
            "decision": {"by": "rule", "rule": "phones", "variant": "app", "destination": "https://app.x/\u{1b}", "status": 302,
                "strategy": "weighted", "route_version": 3, "note": "by the shares"},
            "campaign": {"id": "mail", "version": 3, "applies": true, "why": [], "dedup": {"by": ["ip", "ua"], "window": "1h"}},
            "facts": {"country": "DE", "hour": 9, "is_bot": false, "source": "", "tags": ["vip"], "query": {}},
            "rules": [
                {"name": "utm", "verdict": "undecided", "why": [
                    {"part": "query[\"utm\"] == \"x\"", "found": {"query[\"utm\"]": null}, "truth": "missing", "decides": true},
                    {"part": "is_bot", "found": {"is_bot": false}, "truth": "false", "decides": false},
                ]},
                {"name": "phones", "verdict": "taken", "why": [], "to": [
                    {"name": "app", "url": "https://app.x/", "share": 0.75, "chosen": true, "bid": null},
                    {"name": "b", "url": "https://b.x/", "share": 0.25, "chosen": false, "bid": 2.5},
                ], "turns": ["app", "b"]},
            ],
            "default": {"verdict": "not reached"},
            "warnings": ["no file"],
        });
        let expected = "\
decision    rule phones, destination app (weighted)
goes to     https://app.x/\\u{1b}
answered    302, route version 3
note        by the shares
warning     no file
campaign    mail, version 3: applies
duplicates  by ip and ua within 1h
visit       country=DE hour=9 is_bot=false

? utm      undecided
    missing < query[\"utm\"] == \"x\"  no query[\"utm\"]
    false     is_bot               is_bot is false
* phones   taken
  >  75.0 %   app  https://app.x/
     25.0 %   b    https://b.x/  bid 2.5
    turns     app b ...
  default  not reached";
        assert_eq!(lines(&answer).join("\n"), expected);
    }
}
