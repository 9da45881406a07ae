//! Reports of what counts most: sums by key with a bound, the largest first, as a table for people or as JSON lines.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

/// The settings of a plugin that reports. [`crate::from_config`] reads them.
#[derive(Deserialize, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many rows a report shows.
    pub top: usize,
    /// `text` for people, `json` for programs.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { top: 10, format: Format::Text }
    }
}

/// How a report is printed.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A table for people.
    #[default]
    Text,
    /// A line of JSON per row, for programs.
    Json,
}

/// A row of a report. As JSON it has its kind and its own fields.
pub trait Row: Serialize {
    /// What `kind` says in JSON.
    const KIND: &'static str;
    /// The table's first line.
    const HEADING: &'static str;
    /// The row's line in the table.
    fn line(&self) -> String;
}

#[derive(Serialize)]
struct Line<'a, R> {
    kind: &'static str,
    #[serde(flatten)]
    row: &'a R,
}

/// The text of a report; empty without rows.
pub fn text<R: Row>(format: Format, rows: &[R]) -> String {
    let mut text = String::new();
    if format == Format::Text && !rows.is_empty() {
        _ = writeln!(text, "{}", R::HEADING);
    }
    for row in rows {
        let line = match format {
            Format::Text => row.line(),
            Format::Json => {
                serde_json::to_string(&Line { kind: R::KIND, row }).expect("strings and numbers always serialise")
            }
        };
        _ = writeln!(text, "{line}");
    }
    text
}

/// Prints a report in one piece.
pub fn print<R: Row>(format: Format, rows: &[R]) {
    _ = std::io::stdout().lock().write_all(text(format, rows).as_bytes());
}

/// Sums by key. Keys beyond the most that it holds are summed together.
#[derive(Debug)]
pub struct Sums<K, S, const MOST: usize> {
    sums: BTreeMap<K, S>,
    others: Option<S>,
}

impl<K, S, const MOST: usize> Default for Sums<K, S, MOST> {
    fn default() -> Self {
        Sums { sums: BTreeMap::new(), others: None }
    }
}

impl<K: Ord, S: Default, const MOST: usize> Sums<K, S, MOST> {
    /// The sum of a key, or of all those for which there is no room.
    pub fn of(&mut self, key: K) -> &mut S {
        if self.sums.len() < MOST || self.sums.contains_key(&key) {
            self.sums.entry(key).or_default()
        } else {
            self.others.get_or_insert_default()
        }
    }

    /// Takes out the `top` largest, and behind them the sum of those for which there was no room, which has no key.
    pub fn take(&mut self, top: usize, size: impl Fn(&S) -> u64) -> Vec<(Option<K>, S)> {
        let mut sums: Vec<(Option<K>, S)> =
            std::mem::take(&mut self.sums).into_iter().map(|(key, sum)| (Some(key), sum)).collect();
        sums.sort_by_key(|(_, sum)| Reverse(size(sum)));
        sums.truncate(top);
        sums.extend(self.others.take().map(|others| (None, others)));
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Count {
        name: &'static str,
        count: u64,
    }

    impl Row for Count {
        const KIND: &'static str = "count";
        const HEADING: &'static str = "COUNT NAME";
        fn line(&self) -> String {
            format!("{:>5} {}", self.count, self.name)
        }
    }

    #[test]
    fn the_largest_come_first_and_what_has_no_room_last() {
        let mut sums = Sums::<&str, u64, 2>::default();
        for (key, more) in [("a", 1), ("b", 5), ("c", 7), ("a", 9), ("d", 2)] {
            *sums.of(key) += more;
        }
        assert_eq!(sums.take(1, |sum| *sum), [(Some("a"), 10), (None, 9)]);
        assert!(sums.take(9, |sum| *sum).is_empty());
    }

    #[test]
    fn a_report_is_a_table_or_lines_of_json() {
        let rows = [Count { name: "x", count: 3 }];
        assert_eq!(text(Format::Text, &rows), "COUNT NAME\n    3 x\n");
        assert_eq!(text(Format::Json, &rows), "{\"kind\":\"count\",\"name\":\"x\",\"count\":3}\n");
        assert_eq!(text::<Count>(Format::Text, &[]), "");
    }
}
