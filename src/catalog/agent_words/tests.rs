//! Agents as they are sent, by class.

use std::collections::BTreeSet;

use crate::catalog::agents::Agents;
use crate::click::class::Marks;
use crate::click::{Class, Reasons};

const MONITORS: &[&str] = &[
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Ubuntu Chromium/59.0.3071.109 Chrome/59.0.3071.109 Safari/537.36 PingdomPageSpeed/1.0 (pingbot/2.0; +http://www.pingdom.com/)",
    "Mozilla/5.0 (Windows NT 6.2; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/98.0.4758.102 Safari/537.36 StatusCake",
    "StatusCake_Uptime_Checker/1.0",
    "Site24x7",
    "Better Uptime Bot Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/74.0.3729.169 Safari/537.36",
    "HetrixTools Uptime Monitoring Bot. https://hetrix.tools/uptime-monitoring-bot.html",
    "Uptime-Kuma/1.23.16",
    "FreshpingBot/1.0 (+https://freshping.io/)",
    "Mozilla/5.0 (compatible; Uptimebot/1.0; +http://www.uptime.com/uptimebot)",
    "Mozilla/5.0 (compatible; Uptime/1.0; http://uptime.com)",
    "updown.io daemon 2.11",
    "NodePing",
    "Mozilla/5.0 (compatible; OhDear/1.1; +https://ohdear.app/checker)",
    "jetmon/1.0 (Jetpack Site Uptime Monitor by WordPress.com)",
    "SentryUptimeBot/1.0 (+http://docs.sentry.io/product/alerts/uptime-monitoring/)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.7204.168 Safari/537.36 DatadogSynthetics",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.6998.35 Safari/537.36 (Checkly, https://www.checklyhq.com)",
    "NewRelicPinger/1.0 (370512)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/100.0.4896.60 Safari/537.36 NewRelicSynthetics/1.0",
    "Mozilla/5.0 (Windows NT 10.0; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/83.0.4103.97 Safari/537.36 (Dotcom-Monitor)",
    "Mozilla/5.0 (compatible; AlertSite; +https://www.alertsite.com/)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/97.0.4692.71 Safari/537.36 (ThousandEyes Agent)",
    "GoogleStackdriverMonitoring-UptimeChecks(https://cloud.google.com/monitoring)",
    "GoogleHC/1.0",
    "Amazon-Route53-Health-Check-Service (ref 12345678-1234-1234-1234-123456789012; report http://amzn.to/1vsZADi)",
    "ELB-HealthChecker/2.0",
    "kube-probe/1.31",
    "Mozilla/5.0 (compatible; Cloudflare-Healthchecks/1.0; +https://www.cloudflare.com/; healthcheck-id: AAAAAAAAAAAAAAAA)",
    "Blackbox Exporter/0.25.0",
    "synthetic-monitoring-agent/v0.20.1-0-g66af84ad (linux amd64; +https://github.com/grafana/synthetic-monitoring-agent)",
    "check_http/v2.3.3 (nagios-plugins 2.3.3)",
    "Zabbix",
    "LogicMonitor SiteMonitor/1.0",
    "Mozilla/5.0 (compatible; PRTG Network Monitor (www.paessler.com); Windows)",
    "Rackspace Monitoring/1.1 (https://monitoring.api.rackspacecloud.com)",
    "elmah.io Uptime Monitoring",
    "Honeybadger Uptime Check",
    "SiteUptime.com",
    "Mozilla/5.0 (compatible; MontasticMonitor; +https://montastic.com/)",
    "TrellisProbe/0.1.0 (frankfurt)",
];

const SCANNERS: &[&str] = &[
    "Barracuda Sentinel (EE)",
    "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.5735.179 Mobile Safari/537.36 (compatible; Google-Safety; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Windows; U; MSIE 9.0; Windows NT 9.0; en-US) AppEngine-Google; (+http://code.google.com/appengine; appid: s~virustotalcloud)",
    "TwinWaveScanner",
    "Mozilla/5.0 (compatible; CloudflareRadarURLScanner; +https://radar.cloudflare.com/)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/92.0.4515.107 Safari/537.36 (compatible; +https://developers.cloudflare.com/security-center/)",
    "Mozilla/5.0 (compatible; ProjectShield-UrlCheck; +http://g.co/projectshield)",
    "SafeSearch microdata crawler (https://safesearch.avira.com, safesearch-abuse@avira.com)",
    "SafeDNSBot (https://www.safedns.com/searchbot)",
    "Expanse, a Palo Alto Networks company, searches across the global IPv4 space multiple times per day",
    "Hello from Palo Alto Networks, find out more about our scans in https://docs-cortex.paloaltonetworks.com/r/1/Cortex-Xpanse/Scanning-activity",
    "Mozilla/5.0 (compatible; CensysInspect/1.1; +https://about.censys.io/)",
    "Mozilla/5.0 (compatible; InternetMeasurement/1.0; +https://internet-measurement.com/)",
    "Mozilla/5.0 (compatible; NetcraftSurveyAgent/1.0; +info@netcraft.com)",
    "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; Netcraft SSL Server Survey - contact info@netcraft.com)",
    "Mozilla/5.0 (compatible; BitSightBot/1.0)",
    "l9explore/1.2.2",
    "Mozilla/5.0 (l9scan/2.0; +https://github.com/LeakIX/l9scan)",
    "Mozilla/5.0 (compatible; ModatScanner/1.2; +https://modat.io/)",
    "Mozilla/5.0 zgrab/0.x",
    "masscan/1.3 (https://github.com/robertdavidgraham/masscan)",
    "Mozilla/5.0 (compatible; Nmap Scripting Engine; https://nmap.org/book/nse.html)",
    "Mozilla/5.00 (Nikto/2.1.6) (Evasions:None) (Test:Port Check)",
    "sqlmap/1.7.8#stable (https://sqlmap.org)",
    "WPScan v3.8.22 (https://wpscan.com/wordpress-security-scanner)",
    "Mozilla/5.0 [en] (X11, U; OpenVAS-VT 21.4.3)",
    "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) acunetix-product/wvs (Acunetix Web Vulnerability Scanner - Free Edition)",
    "Mozilla/5.0 (compatible; Detectify) +https://detectify.com/bot/",
    "SSL Labs (https://www.ssllabs.com/about/assessment.html)",
    "W3C-checklink/4.81 libwww-perl/5.836",
    "Xenu Link Sleuth/1.3.8",
    "Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.1; Trident/6.0) LinkCheck by Siteimprove.com",
    "www.deadlinkchecker.com Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/46.0.2490.86 Safari/537.36",
    "Mozilla/5.0 (Windows NT 5.1) brokenlinkcheck.com/1.2",
    "WPMU DEV Broken Link Checker Spider",
];

const PREVIEWS: &[&str] = &[
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    // Messages on Apple's devices.
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
    "facebookexternalhit/1.1; kakaotalk-scrap/1.0; +https://devtalk.kakao.com/t/scrap/33984",
    "Facebot",
    "WhatsApp/2.23.20.0",
    "Twitterbot/1.0",
    "TelegramBot (like TwitterBot)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Slackbot 1.0 (+https://api.slack.com/robots)",
    "Slack-ImgProxy (+https://api.slack.com/robots)",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
    "MicrosoftPreview/2.0; +https://aka.ms/MicrosoftPreview",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b",
    "Mozilla/5.0 (compatible; redditbot/1.0; +http://www.reddit.com/feedback)",
    "Mozilla/5.0 (compatible; vkShare; +http://vk.com/dev/Share)",
    "Snap URL Preview Service; bot; snapchat; https://developers.snap.com/robots",
    "Mozilla/5.0 (compatible; Bluesky Cardyb/1.1; +mailto:support@bsky.app)",
    "http.rb/5.1.1 (Mastodon/4.2.10; +https://mastodon.example/)",
    "Mastodon/4.3.0 (http.rb/5.2.0; +https://mastodon.example/)",
    "Mattermost-Bot/1.1",
    "Synapse (bot; +https://github.com/matrix-org/synapse)",
    "Mozilla/5.0 (compatible; Embedly/0.2; +http://support.embed.ly/)",
    "Iframely/1.3.1 (+https://iframely.com/docs/about)",
    "Mozilla/5.0 (compatible; Yahoo Link Preview; https://help.yahoo.com/kb/mail/yahoo-link-preview-SLN23615.html)",
    "Chatwork LinkPreview v1",
    "DingTalkBot-LinkService/1.0 (+https://open-doc.dingtalk.com/microapp/faquestions/ftpfeu)",
    "BufferLinkPreviewBot/1.0 (+https://scraper.buffer.com/about/bots/link-preview-bot)",
    "Discourse Forum Onebox v3.3.0.beta1-dev",
    "Mozilla/5.0 (compatible; FlipboardProxy/1.1; +http://flipboard.com/browserproxy)",
];

const BOTS: &[&str] = &[
    "",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.1 Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0.0.0 Safari/537.36",
    "curl/8.14.1",
    "python-requests/2.32.3",
    "Go-http-client/1.1",
];

/// Apps with a browser inside are people; `loadtest/data/user_agents.txt` has the browsers.
const HUMANS: &[&str] = &[
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/516.0.0.40.89;FBBV/746410014;FBDV/iPhone14,5;FBMD/iPhone;FBSN/iOS;FBSV/18.5]",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 380.0.0.28.104 (iPhone14,5; iOS 18_5; de_DE; de; scale=3.00; 1170x2532; 738070862)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [LinkedInApp]/9.30.1",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Twitter for iPhone/11.2",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [Pinterest/iOS]",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari Line/15.9.0",
];

fn class(agents: &Agents, ua: &str) -> Class {
    agents.classifier().classify(false, false, Marks::default(), agents.read(ua.as_bytes()).reasons).class
}

#[test]
fn agents_have_the_class_of_what_they_do() {
    let agents = Agents::new().unwrap();
    for (expected, table) in [
        (Class::Monitor, MONITORS),
        (Class::Scanner, SCANNERS),
        (Class::Preview, PREVIEWS),
        (Class::Bot, BOTS),
        (Class::Human, HUMANS),
    ] {
        for ua in table {
            assert_eq!(class(&agents, ua), expected, "{ua}");
            assert_eq!(agents.read(ua.as_bytes()).device == "bot", expected.is_bot() && !ua.is_empty(), "{ua}");
        }
    }
}

#[test]
fn every_shipped_word_stands_in_an_agent_of_its_kind() {
    let agents = Agents::new().unwrap();
    for known in &agents.classifier().rules().words {
        let table = match known.reason {
            Reasons::AGENT_MONITOR => MONITORS,
            Reasons::AGENT_SCANNER => SCANNERS,
            _ => PREVIEWS,
        };
        assert!(known.enforced && table.iter().any(|ua| ua.contains(&known.word)), "{}", known.word);
    }
}

#[test]
fn what_browsers_send_stays_human() {
    let agents = Agents::new().unwrap();
    let list = include_str!("../../../loadtest/data/user_agents.txt");
    let others: BTreeSet<_> = list.lines().filter(|ua| class(&agents, ua) != Class::Human).collect();
    assert!(list.lines().count() > 900 && others.is_empty(), "{others:#?}");
    let odd = |ua: &&str| agents.read(ua.as_bytes()).reasons.found != Reasons::default();
    assert_eq!(list.lines().filter(odd).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_crawler_of_the_list_is_some_kind_of_bot() {
    let agents = Agents::new().unwrap();
    let list = include_str!("../../../loadtest/data/crawlers.txt");
    let humans: Vec<_> = list.lines().filter(|ua| !class(&agents, ua).is_bot()).collect();
    assert!(list.lines().count() > 1_000 && humans.is_empty(), "{humans:#?}");
}
