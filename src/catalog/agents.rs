//! What a user agent says of itself: browser, system, device, and why it is no person's.
//!
//! One pass over the text finds which of about a hundred words stand in it; the answer follows from that set. The names
//! are closed sets, so nobody can fill the store's dictionaries from outside. About half a microsecond; callers keep an
//! [`AgentMemo`](super::AgentMemo).

use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::agent_words::AgentWords;
use crate::click::class::{AgentReasons, Classifier, Reasons};
use crate::config;

/// What a user agent says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Family name, such as `Chrome`; `Other` when unknown.
    pub browser: &'static str,
    /// `Windows`, `macOS`, `iOS`, `Android`, `Linux`, `ChromeOS`, `HarmonyOS`, `Tizen`, `webOS` or `Other`.
    pub os: &'static str,
    /// `desktop`, `mobile`, `tablet`, `tv`, `bot` or `other`.
    pub device: &'static str,
    /// What speaks against a person.
    pub reasons: AgentReasons,
}

/// What [`Agent::os`] may be.
pub const SYSTEMS: [&str; 10] =
    ["Windows", "macOS", "iOS", "Android", "Linux", "ChromeOS", "HarmonyOS", "Tizen", "webOS", "Other"];
/// What [`Agent::device`] may be.
pub const DEVICES: [&str; 6] = ["desktop", "mobile", "tablet", "tv", "bot", "other"];

/// What [`Agent::browser`] may be, in the order of the alphabet.
#[must_use]
pub fn browsers() -> Vec<&'static str> {
    let mut names: Vec<_> = BROWSERS.iter().map(|(_, name)| *name).chain(["Safari", "Other"]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Words that name a browser or an app. The first of this list that stands in the text wins, so apps come before the
/// browser that they embed, and browsers before the engine that they are built on.
pub(super) const BROWSERS: &[(&str, &str)] = &[
    ("FBAN/", "Facebook"),
    ("FBAV/", "Facebook"),
    ("FB_IAB/", "Facebook"),
    ("Instagram ", "Instagram"),
    ("Barcelona ", "Threads"),
    ("musical_ly", "TikTok"),
    ("BytedanceWebview", "TikTok"),
    ("Snapchat", "Snapchat"),
    ("[Pinterest/", "Pinterest"),
    ("LinkedInApp", "LinkedIn"),
    ("Twitter for ", "X"),
    ("Reddit/", "Reddit"),
    ("MicroMessenger/", "WeChat"),
    (" Line/", "Line"),
    ("KAKAOTALK", "KakaoTalk"),
    ("NAVER(inapp", "Naver"),
    (" GSA/", "Google App"),
    ("baiduboxapp", "Baidu"),
    ("baidubrowser", "Baidu"),
    ("BIDUBrowser", "Baidu"),
    ("MQQBrowser/", "QQ"),
    ("QQBrowser/", "QQ"),
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("OPiOS/", "Opera"),
    ("OPX/", "Opera"),
    ("Opera", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("YaBrowser/", "Yandex"),
    ("Vivaldi/", "Vivaldi"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("Silk/", "Silk"),
    ("UCBrowser/", "UC Browser"),
    ("UBrowser/", "UC Browser"),
    ("HuaweiBrowser/", "Huawei Browser"),
    ("MiuiBrowser/", "MIUI Browser"),
    ("VivoBrowser/", "Vivo Browser"),
    ("HeyTapBrowser/", "HeyTap Browser"),
    ("Whale/", "Whale"),
    ("OculusBrowser/", "Oculus Browser"),
    ("Electron/", "Electron"),
    ("Trident/", "Internet Explorer"),
    ("MSIE ", "Internet Explorer"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Focus/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("; wv)", "WebView"),
    ("Chrome/", "Chrome"),
    ("Chromium/", "Chrome"),
];

/// Words that say what the machine is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Tv,
    Console,
    HarmonyOs,
    Tizen,
    WebOs,
    IPhone,
    IPad,
    Windows,
    Android,
    ChromeOs,
    Mac,
    KaiOs,
    Linux,
    Mobile,
    Tablet,
    Safari,
    Version,
    WebKit,
}

pub(super) const SIGNS: &[(&str, Sign)] = &[
    ("SMART-TV", Sign::Tv),
    ("SmartTV", Sign::Tv),
    ("Smart TV", Sign::Tv),
    ("Smart-TV", Sign::Tv),
    ("SMARTTV", Sign::Tv),
    ("HbbTV", Sign::Tv),
    ("GoogleTV", Sign::Tv),
    ("Google TV", Sign::Tv),
    ("Android TV", Sign::Tv),
    ("AndroidTV", Sign::Tv),
    ("Apple TV", Sign::Tv),
    ("AppleTV", Sign::Tv),
    ("CrKey/", Sign::Tv),
    ("Roku", Sign::Tv),
    ("BRAVIA", Sign::Tv),
    ("; AFT", Sign::Tv),
    ("NetCast", Sign::Tv),
    ("VIDAA", Sign::Tv),
    ("MiTV", Sign::Tv),
    ("MIBOX", Sign::Tv),
    (" TV Safari", Sign::Tv),
    ("Web0S", Sign::WebOs),
    ("webOS.TV", Sign::WebOs),
    ("PlayStation", Sign::Console),
    ("Xbox", Sign::Console),
    ("Nintendo", Sign::Console),
    ("HarmonyOS", Sign::HarmonyOs),
    ("OpenHarmony", Sign::HarmonyOs),
    ("Tizen", Sign::Tizen),
    ("iPhone", Sign::IPhone),
    ("iPod", Sign::IPhone),
    ("iPad", Sign::IPad),
    ("Windows", Sign::Windows),
    ("Android", Sign::Android),
    ("CrOS", Sign::ChromeOs),
    ("Macintosh", Sign::Mac),
    ("KAIOS", Sign::KaiOs),
    ("Linux", Sign::Linux),
    ("X11", Sign::Linux),
    ("Mobile", Sign::Mobile),
    ("Tablet", Sign::Tablet),
    ("Safari/", Sign::Safari),
    ("Version/", Sign::Version),
    ("AppleWebKit/", Sign::WebKit),
];

/// Reads user agents.
#[derive(Debug)]
pub struct Agents {
    /// The words of `BROWSERS`, then those of `SIGNS`.
    words: AhoCorasick,
    programs: AgentWords,
}

impl Agents {
    /// With the shipped rules; see [`Agents::with`].
    ///
    /// # Errors
    /// See [`Agents::with`].
    pub fn new() -> Result<Self, String> {
        Self::with(config::shipped_classifier())
    }

    /// Builds the automata from the words above, those of these rules and the shipped crawler list: some 20 ms, and 2 MB.
    ///
    /// # Errors
    /// When the shipped list is not what it should be; a test sees that first.
    pub fn with(classifier: Arc<Classifier>) -> Result<Self, String> {
        let words = BROWSERS.iter().map(|(word, _)| *word).chain(SIGNS.iter().map(|(word, _)| *word));
        let words = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(words);
        Ok(Self { words: words.map_err(|e| e.to_string())?, programs: AgentWords::new(classifier)? })
    }

    /// Names the lists and the rules: other ones have another number.
    #[must_use]
    pub fn version(&self) -> u64 {
        u64::from(super::crawlers::checksum()) ^ self.classifier().version()
    }

    /// Says who made a request.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        self.programs.classifier()
    }

    /// What speaks against a person in this user agent.
    #[must_use]
    pub fn reasons(&self, ua: &[u8]) -> AgentReasons {
        self.programs.reasons(ua)
    }

    /// What this user agent says. Any bytes will do.
    #[must_use]
    pub fn read(&self, ua: &[u8]) -> Agent {
        let reasons = self.reasons(ua);
        if reasons.found.has(Reasons::AGENT_CRAWLER) || reasons.enforced.has(Reasons::OF_WORDS) {
            return Agent { browser: "Other", os: "Other", device: "bot", reasons };
        }
        let (mut signs, mut browser) = (Signs::default(), BROWSERS.len());
        for found in self.words.find_overlapping_iter(ua) {
            let word = found.pattern().as_usize();
            match word.checked_sub(BROWSERS.len()) {
                None => browser = browser.min(word),
                Some(sign) => signs.add(SIGNS[sign].1),
            }
        }
        let os = signs.os();
        let browser = BROWSERS.get(browser).map_or_else(|| signs.unnamed_browser(os), |(_, name)| *name);
        let device = signs.device(os, browser);
        Agent { browser, os, device, reasons }
    }
}

#[derive(Clone, Copy, Default)]
struct Signs(u32);

impl Signs {
    fn add(&mut self, sign: Sign) {
        self.0 |= 1 << sign as u32;
    }

    fn has(self, sign: Sign) -> bool {
        self.0 & (1 << sign as u32) != 0
    }

    /// The first that holds: special systems name the system they are built on or imitate, too.
    fn os(self) -> &'static str {
        [
            (Sign::HarmonyOs, "HarmonyOS"),
            (Sign::Tizen, "Tizen"),
            (Sign::WebOs, "webOS"),
            (Sign::IPhone, "iOS"),
            (Sign::IPad, "iOS"),
            (Sign::Windows, "Windows"),
            (Sign::Android, "Android"),
            (Sign::ChromeOs, "ChromeOS"),
            (Sign::Mac, "macOS"),
            (Sign::KaiOs, "Other"),
            (Sign::Linux, "Linux"),
        ]
        .into_iter()
        .find(|(sign, _)| self.has(*sign))
        .map_or("Other", |(_, os)| os)
    }

    fn device(self, os: &str, browser: &str) -> &'static str {
        if self.has(Sign::Tv) || os == "webOS" {
            "tv"
        } else if self.has(Sign::Console) || browser == "Oculus Browser" {
            "other"
        } else if self.has(Sign::IPad) || self.has(Sign::Tablet) {
            "tablet"
        } else if self.has(Sign::IPhone) || self.has(Sign::Mobile) {
            "mobile"
        } else if os == "Android" {
            // Android browsers say `Mobile` on telephones; an app's own client says nothing.
            if self.has(Sign::WebKit) { "tablet" } else { "mobile" }
        } else if matches!(os, "Windows" | "macOS" | "Linux" | "ChromeOS") {
            "desktop"
        } else {
            "other"
        }
    }

    fn unnamed_browser(self, os: &str) -> &'static str {
        if self.has(Sign::Safari) && self.has(Sign::Version) {
            "Safari"
        } else if os == "iOS" && self.has(Sign::WebKit) {
            "WebView"
        } else {
            "Other"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_agents_are_read() {
        let agents = Agents::new().unwrap();
        for (ua, browser, os, device) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
                "Chrome",
                "Windows",
                "desktop",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
                "Edge",
                "Windows",
                "desktop",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
                "Safari",
                "macOS",
                "desktop",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "Firefox", "Linux", "desktop"),
            (
                "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36",
                "Chrome",
                "Android",
                "mobile",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-X910) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Safari/537.36",
                "Samsung Internet",
                "Android",
                "tablet",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
                "Safari",
                "iOS",
                "mobile",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/500.0]",
                "Facebook",
                "iOS",
                "mobile",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0 Mobile/15E148 Safari/604.1",
                "Chrome",
                "iOS",
                "tablet",
            ),
            (
                "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0 Safari/537.36 WebAppManager",
                "Chrome",
                "webOS",
                "tv",
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
                "Chrome",
                "ChromeOS",
                "desktop",
            ),
            ("Some thing that nobody knows", "Other", "Other", "other"),
        ] {
            let told = agents.read(ua.as_bytes());
            assert_eq!((told.browser, told.os, told.device), (browser, os, device), "{ua}");
            assert_eq!((told.reasons.found, told.reasons.enforced), Default::default(), "{ua}");
            assert!(SYSTEMS.contains(&os) && DEVICES.contains(&device) && browsers().contains(&browser));
        }
        let none = agents.read(b"");
        assert_eq!((none.device, none.reasons.enforced), ("other", Reasons::AGENT_MISSING));
        for ua in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "curl/8.14.1",
            "facebookexternalhit/1.1",
        ] {
            let told = agents.read(ua.as_bytes());
            assert!(told.device == "bot" && told.reasons.enforced.has(Reasons::AGENT_CRAWLER), "{ua}");
        }
        assert!(!agents.read(b"\xff\xfe\x00").reasons.found.has(Reasons::AGENT_CRAWLER));
    }
}
