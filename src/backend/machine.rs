//! What the system says of this process, of its limits and of the data folder's disk.
//!
//! Reads small files of `/proc` and `/sys` and asks the file system; some tens of microseconds, but a file system of the network
//! may take any time, so its caller gives it a thread on which nothing else waits. What is not there is told as such and
//! guessed by nobody. `app` calls it every `watch.system_every`.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::telemetry::figures::{Figure, Reading};

type Read = Result<f64, String>;

/// What is asked for here.
pub const FIGURES: [Figure; 10] = [
    Figure::CpuCores,
    Figure::MemoryLimit,
    Figure::Heap,
    Figure::IoRead,
    Figure::IoWritten,
    Figure::NetworkReceived,
    Figure::NetworkSent,
    Figure::DiskBytes,
    Figure::DiskFree,
    Figure::DiskBusy,
];

/// The machine, or the container, and a folder on it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/`, but in tests.
    root: PathBuf,
    data_dir: PathBuf,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this(data_dir: &Path) -> Self {
        Self { root: "/".into(), data_dir: data_dir.to_owned() }
    }

    /// Reads everything once. Blocks.
    #[must_use]
    pub fn look(&self) -> Vec<Reading> {
        FIGURES.into_iter().map(|figure| (figure, self.read(figure))).collect()
    }

    fn read(&self, figure: Figure) -> Read {
        match figure {
            Figure::CpuCores => self.cores(),
            Figure::MemoryLimit => self.memory_limit(),
            Figure::Heap => Ok(field(&self.text("proc/self/status")?, "RssAnon:")? * 1024.0),
            Figure::IoRead => field(&self.text("proc/self/io")?, "read_bytes:"),
            Figure::IoWritten => field(&self.text("proc/self/io")?, "write_bytes:"),
            Figure::NetworkReceived => Ok(network(&self.text("proc/self/net/dev")?)?.0),
            Figure::NetworkSent => Ok(network(&self.text("proc/self/net/dev")?)?.1),
            Figure::DiskBytes => self.disk(|disk| disk.f_blocks),
            Figure::DiskFree => self.disk(|disk| disk.f_bavail),
            Figure::DiskBusy => self.disk_busy(),
            other => Err(format!("the system does not know {}", other.name())),
        }
    }

    /// Those that it may run on, or a smaller quota of their time.
    fn cores(&self) -> Read {
        let allowed = cores_of(&self.text("proc/self/status")?)?;
        let quota = self.smallest("cpu", |folder| match self.text_if_any(&folder.join("cpu.max"))? {
            Some(text) => quota(&text),
            None => {
                let quota = self.text_if_any(&folder.join("cpu.cfs_quota_us"))?;
                let period = self.text_if_any(&folder.join("cpu.cfs_period_us"))?;
                Ok(quota.zip(period).and_then(|(quota, period)| old_quota(&quota, &period)))
            }
        })?;
        Ok(quota.map_or(allowed, |quota| quota.min(allowed)))
    }

    /// Of its control groups the smallest, or all that the machine has.
    fn memory_limit(&self) -> Read {
        let all = field(&self.text("proc/meminfo")?, "MemTotal:")? * 1024.0;
        let limit = self.smallest("memory", |folder| {
            let text = match self.text_if_any(&folder.join("memory.max"))? {
                Some(text) => Some(text),
                None => self.text_if_any(&folder.join("memory.limit_in_bytes"))?,
            };
            Ok(text.and_then(|text| text.trim().parse().ok()))
        })?;
        Ok(limit.map_or(all, |limit| limit.min(all)))
    }

    /// The smallest limit of the control groups that this process is in, from its own up to the root.
    fn smallest(
        &self,
        controller: &str,
        limit: impl Fn(&Path) -> Result<Option<f64>, String>,
    ) -> Result<Option<f64>, String> {
        let Some(groups) = self.text_if_any(Path::new("proc/self/cgroup"))? else { return Ok(None) };
        let mut smallest: Option<f64> = None;
        for (base, group) in groups_of(&groups, controller) {
            for ancestor in Path::new(group.trim_start_matches('/')).ancestors() {
                if let Some(found) = limit(&Path::new(base).join(ancestor))? {
                    smallest = Some(smallest.map_or(found, |smallest| smallest.min(found)));
                }
            }
        }
        Ok(smallest)
    }

    fn disk(&self, blocks: impl Fn(&rustix::fs::StatVfs) -> u64) -> Read {
        let disk = rustix::fs::statvfs(&self.data_dir).map_err(|error| told(&self.data_dir, &error))?;
        Ok(blocks(&disk) as f64 * disk.f_frsize as f64)
    }

    fn disk_busy(&self) -> Read {
        let device = std::fs::metadata(&self.data_dir).map_err(|error| told(&self.data_dir, &error))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("sys/dev/block/{major}:{minor}/stat");
        let Some(text) = self.text_if_any(Path::new(&path))? else {
            return Err(format!("the file system of the data folder is no device of this machine ({major}:{minor})"));
        };
        busy_s(&text)
    }

    fn text(&self, path: &str) -> Result<String, String> {
        self.text_if_any(Path::new(path))?.ok_or_else(|| format!("/{path}: there is none"))
    }

    fn text_if_any(&self, path: &Path) -> Result<Option<String>, String> {
        match std::fs::read_to_string(self.root.join(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(&Path::new("/").join(path), &error)),
        }
    }
}

fn told(path: &Path, error: &dyn std::error::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The number behind a name: `RssAnon:   1234 kB`.
fn field(text: &str, name: &str) -> Read {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("no number behind `{name}`"))
}

/// `Cpus_allowed_list: 0-3,8` are five.
fn cores_of(status: &str) -> Read {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        last.checked_sub(first).map(|more| f64::from(more) + 1.0)
    };
    let counts: Option<Vec<f64>> = list.map(|list| list.trim().split(',').map(count).collect()).unwrap_or_default();
    counts.map(|counts| counts.iter().sum()).ok_or_else(|| "no list behind `Cpus_allowed_list:`".into())
}

/// Bytes received and sent by all interfaces but the loopback.
///
/// ```text
///   eth0: received packets errs drop fifo frame compressed multicast sent ...
/// ```
fn network(text: &str) -> Result<(f64, f64), String> {
    let (mut received, mut sent) = (0.0, 0.0);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<f64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [in_bytes, _, _, _, _, _, _, _, out_bytes, ..] = numbers[..] else {
            return Err(format!("/proc/self/net/dev: cannot be read: {line}"));
        };
        received += in_bytes;
        sent += out_bytes;
    }
    Ok((received, sent))
}

/// The folders of the control groups that this controller may have limits in: below where it is mounted, and the group.
///
/// ```text
/// 0::/system.slice/trellis.service           one for all controllers, below /sys/fs/cgroup
/// 4:cpu,cpuacct:/docker/1f...                older: one for some, below /sys/fs/cgroup/<controller>
/// ```
fn groups_of<'t>(text: &'t str, controller: &str) -> Vec<(&'static str, &'t str)> {
    let old = if controller == "cpu" { "sys/fs/cgroup/cpu" } else { "sys/fs/cgroup/memory" };
    let group = |line: &'t str| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next()?, parts.next()?) {
            ("", group) => Some(("sys/fs/cgroup", group)),
            (names, group) => names.split(',').any(|name| name == controller).then_some((old, group)),
        }
    };
    text.lines().filter_map(group).collect()
}

/// `150000 100000` is one and a half, `max 100000` is none.
fn quota(text: &str) -> Result<Option<f64>, String> {
    let mut parts = text.split_whitespace();
    match (parts.next(), parts.next().and_then(|period| period.parse::<f64>().ok())) {
        (Some("max"), _) => Ok(None),
        (Some(quota), Some(period)) if period > 0.0 => quota
            .parse::<f64>()
            .map(|quota| Some(quota / period))
            .map_err(|_| format!("cpu.max: cannot be read: {text}")),
        _ => Err(format!("cpu.max: cannot be read: {text}")),
    }
}

/// A negative quota is none.
fn old_quota(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.trim().parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The tenth number of `/sys/dev/block/*/stat`: milliseconds in which the device had something to do.
fn busy_s(text: &str) -> Read {
    let number = text.split_whitespace().nth(9).and_then(|number| number.parse::<f64>().ok());
    number.map(|ms| ms / 1e3).ok_or_else(|| format!("the device's stat: cannot be read: {}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ttrellis\nVmRSS:\t   52000 kB\nRssAnon:\t   40960 kB\nRssFile:\t  11040 kB\n\
                          Cpus_allowed:\t10f\nCpus_allowed_list:\t0-3,8\n";
    const IO: &str = "rchar: 900\nwchar: 800\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 8192\n\
                      cancelled_write_bytes: 1\n";
    const NET: &str = "Inter-|   Receive                                                |  Transmit\n\
         \x20face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n\
         \x20   lo: 111 1 0 0 0 0 0 0 111 1 0 0 0 0 0 0\n\
         \x20 eth0: 1000 9 0 0 0 0 0 0 2000 8 0 0 0 0 0 0\n\
         veth7@if2:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";

    /// A machine of files.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            for (path, text) in [("proc/self/status", STATUS), ("proc/meminfo", "MemTotal:       1000 kB\n")] {
                fake.put(path, text);
            }
            files.iter().for_each(|(path, text)| fake.put(path, text));
            fake
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn read(&self, figure: Figure) -> Read {
            Machine { root: self.0.path().into(), data_dir: self.0.path().into() }.read(figure)
        }
    }

    #[test]
    fn what_the_process_did_is_read_from_proc() {
        let fake = Fake::new(&[("proc/self/io", IO), ("proc/self/net/dev", NET)]);
        for (figure, value) in [
            (Figure::Heap, 40_960.0 * 1024.0),
            (Figure::IoRead, 4096.0),
            (Figure::IoWritten, 8192.0),
            (Figure::NetworkReceived, 1005.0),
            (Figure::NetworkSent, 2006.0),
        ] {
            assert_eq!(fake.read(figure), Ok(value), "{figure:?}");
        }
    }

    #[test]
    fn the_smallest_limit_of_all_control_groups_above_counts() {
        let cores = |files: &[(&str, &str)]| Fake::new(files).read(Figure::CpuCores).unwrap();
        let memory = |files: &[(&str, &str)]| Fake::new(files).read(Figure::MemoryLimit).unwrap();
        let all = 1000.0 * 1024.0;
        assert_eq!((cores(&[]), memory(&[])), (5.0, all), "none: what the machine has");
        let new = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        let none =
            [new, ("sys/fs/cgroup/a.slice/cpu.max", "max 100000"), ("sys/fs/cgroup/a.slice/memory.max", "max\n")];
        assert_eq!((cores(&none), memory(&none)), (5.0, all));
        let of_slice = [
            new,
            ("sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a.slice/b.service/cpu.max", "800000 100000\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "4096\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "8192\n"),
        ];
        assert_eq!((cores(&of_slice), memory(&of_slice)), (1.5, 4096.0));
        let container = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/memory.max", "999999999999\n"),
        ];
        assert_eq!((cores(&container), memory(&container)), (0.5, all), "more than there is is no limit");
        let old = [
            ("proc/self/cgroup", "9:memory:/d/1\n4:cpu,cpuacct:/d/1\n1:name=systemd:/d/1\n"),
            ("sys/fs/cgroup/cpu/d/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/d/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/d/1/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu/d/1/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/d/1/memory.limit_in_bytes", "2048\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!((cores(&old), memory(&old)), (2.5, 2048.0));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_is_not_0() {
        let fake = Fake::new(&[("proc/self/net/dev", "eth0: 1 2\n"), ("proc/self/cgroup", "0::/\n")]);
        fake.put("sys/fs/cgroup/cpu.max", "many 100000\n");
        for (figure, why) in [
            (Figure::IoRead, "/proc/self/io: there is none"),
            (Figure::NetworkSent, "/proc/self/net/dev: cannot be read: eth0: 1 2"),
            (Figure::CpuCores, "cpu.max: cannot be read: many 100000\n"),
            (Figure::RedisHits, "the system does not know trellis_redis_keyspace_hits_total"),
        ] {
            assert_eq!(fake.read(figure), Err(why.into()));
        }
        assert!(
            fake.read(Figure::DiskBusy).unwrap_err().starts_with("the file system of the data folder is no device")
        );
        fake.put("proc/self/status", "Name:\ttrellis\nCpus_allowed_list:\t3-1\n");
        assert_eq!(fake.read(Figure::Heap), Err("no number behind `RssAnon:`".into()));
        assert_eq!(fake.read(Figure::CpuCores), Err("no list behind `Cpus_allowed_list:`".into()));
        let gone = Machine { root: "/".into(), data_dir: fake.0.path().join("gone") };
        assert!(gone.read(Figure::DiskFree).unwrap_err().contains("gone: No such file"));
    }

    #[test]
    fn a_disk_is_busy_for_as_long_as_its_device_says() {
        let text = "    3034  861  246514  1234  9128  3917  1090000  8000  0  4520  9999  0 0 0 0 50 70\n";
        assert_eq!(busy_s(text), Ok(4.52));
        assert!(busy_s("1 2 3").is_err());
    }

    #[test]
    fn this_machine_says_most_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let read = Machine::this(folder.path()).look();
        let value = |figure| read.iter().find(|(of, _)| *of == figure).and_then(|(_, read)| read.clone().ok());
        let (all, free) = (value(Figure::DiskBytes).unwrap(), value(Figure::DiskFree).unwrap());
        assert!(0.0 < free && free <= all, "{free} of {all}");
        assert!(value(Figure::CpuCores).unwrap() > 0.0 && value(Figure::MemoryLimit).unwrap() > 1e6);
        let heap = value(Figure::Heap).unwrap();
        assert!(heap > 0.0 && heap <= value(Figure::MemoryLimit).unwrap(), "{heap}");
        assert_eq!(read.len(), FIGURES.len());
    }
}
