//! Reports at each tick which threads read and wrote which files most.

use eunomia_plugin::prelude::*;
use eunomia_plugin::report::{self, Format, Row, Sums};
use serde::{Deserialize, Serialize};

/// Pairs of thread and file counted one by one in an interval. Those beyond are counted together, as `(other)`.
const MAX_ROWS: usize = 16_384;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// How many rows a report shows.
    top: usize,
    /// `text` for people, `json` for programs.
    format: Format,
    /// Without sockets, pipes, terminals and devices.
    regular_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let report::Settings { top, format } = Default::default();
        Settings { top, format, regular_only: false }
    }
}

/// A thread and a file.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tid: u32,
    comm: String,
    file_type: &'static str,
    path: String,
}

#[derive(Default, Serialize)]
struct Sum {
    reads: u64,
    writes: u64,
    read_bytes: u64,
    write_bytes: u64,
}

#[derive(Serialize)]
struct Activity {
    tid: u32,
    comm: String,
    file_type: &'static str,
    path: String,
    #[serde(flatten)]
    sum: Sum,
}

impl Row for Activity {
    const KIND: &'static str = "file-top";
    const HEADING: &'static str = "     TID COMM                READS   WRITES     R KiB     W KiB T FILE";

    fn line(&self) -> String {
        let Activity { tid, comm, file_type, path, sum: Sum { reads, writes, read_bytes, write_bytes } } = self;
        let kib = |bytes: &u64| bytes.div_ceil(1024);
        let (read, written) = (kib(read_bytes), kib(write_bytes));
        let letter = file_type.chars().next().unwrap_or('-').to_ascii_uppercase();
        format!("{tid:>8} {comm:<16} {reads:>8} {writes:>8} {read:>9} {written:>9} {letter} {path}")
    }
}

#[derive(Default)]
struct FileTop {
    settings: Settings,
    sums: Sums<Key, Sum, MAX_ROWS>,
}

impl FileTop {
    fn add(&mut self, event: &FileActivity) {
        if self.settings.regular_only && event.file_type != FileType::Regular {
            return;
        }
        let file_type = match event.file_type {
            FileType::Regular => "regular",
            FileType::Socket => "socket",
            FileType::Other => "other",
        };
        let task = &event.task;
        let sum = self.sums.of(Key { tid: task.tid, comm: task.comm.clone(), file_type, path: event.path.clone() });
        sum.reads += event.reads;
        sum.writes += event.writes;
        sum.read_bytes += event.read_bytes;
        sum.write_bytes += event.write_bytes;
    }

    /// The rows of what has come since the last report, those with most bytes first.
    fn rows(&mut self) -> Vec<Activity> {
        let sums = self.sums.take(self.settings.top, |sum| sum.read_bytes + sum.write_bytes).into_iter();
        sums.map(|(key, sum)| {
            let other = || Key { tid: 0, comm: "(other)".into(), file_type: "-", path: "(other)".into() };
            let Key { tid, comm, file_type, path } = key.unwrap_or_else(other);
            Activity { tid, comm, file_type, path, sum }
        })
        .collect()
    }

    fn print(&mut self) {
        let rows = self.rows();
        report::print(self.settings.format, &rows);
    }
}

impl Plugin for FileTop {
    fn start(&mut self, config: &str) -> Result<(), String> {
        self.settings = from_config(config)?;
        Ok(())
    }

    fn stop(&mut self) {
        self.print();
    }
}

impl OnFileActivity for FileTop {
    fn on_file_activity(&mut self, events: Vec<FileActivity>) {
        events.iter().for_each(|event| self.add(event));
    }
}

impl OnTick for FileTop {
    fn on_tick(&mut self, _now: u64, _interval: u64) {
        self.print();
    }
}

export!(FileTop: OnFileActivity, OnTick);

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(path: &str, file_type: FileType, read_bytes: u64) -> FileActivity {
        let task = Task {
            pid: 1,
            tid: 2,
            ppid: 1,
            uid: 0,
            gid: 0,
            comm: "cat".into(),
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 1,
        };
        FileActivity {
            time: 1,
            task,
            path: path.into(),
            path_truncated: false,
            deleted: false,
            file_type,
            inode: 1,
            device: 1,
            reads: 1,
            writes: 0,
            read_bytes,
            write_bytes: 0,
            lossy: false,
        }
    }

    #[test]
    fn a_report_sums_the_intervals_and_puts_most_bytes_first() {
        let mut top = FileTop::default();
        top.add(&activity("/a", FileType::Regular, 1024));
        top.add(&activity("/b", FileType::Regular, 1500));
        top.add(&activity("/a", FileType::Regular, 1024));
        let text = report::text(Format::Text, &top.rows());
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines[0], "       2 cat                     2        0         2         0 R /a");
        assert!(lines[1].ends_with("R /b") && lines.len() == 2, "{text}");
        assert!(top.rows().is_empty());
    }

    #[test]
    fn sockets_can_be_left_out() {
        let settings = from_config(r#"{"regular_only": true}"#).unwrap();
        let mut top = FileTop { settings, ..Default::default() };
        top.add(&activity("TCP", FileType::Socket, 5));
        assert!(top.rows().is_empty());
    }
}
