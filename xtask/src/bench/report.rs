//! Results as rows of a table, and the table's place in docs/benchmarks.md. Pure.
//!
//! Each benchmark has a place of its own between two markers, so that running one leaves the
//! tables of the others and all prose as they are.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::stats::Sample;

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// How many times.
    pub(crate) n: usize,
    /// What Shoal did.
    pub(crate) ours: String,
    /// What it is compared with, and what that did.
    pub(crate) against: String,
    /// The former over the latter.
    pub(crate) ratio: String,
    /// What it should be, and whether it is; `None` where the line is there to be known.
    pub(crate) target: Option<Target>,
}

/// What a figure should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// In words, such as `at most 1.2 times`.
    pub(crate) text: String,
    /// Whether it is so.
    pub(crate) reached: bool,
}

impl Target {
    /// That `value` is at most `limit`.
    pub(crate) fn at_most(value: f64, limit: f64, text: impl Into<String>) -> Self {
        Self { text: text.into(), reached: value <= limit }
    }

    /// That `value` is at least `limit`.
    pub(crate) fn at_least(value: f64, limit: f64, text: impl Into<String>) -> Self {
        Self { text: text.into(), reached: value >= limit }
    }
}

impl Row {
    /// Two things that were timed in turns, in milliseconds; the target is the most that the
    /// ratio may be.
    ///
    /// # Errors
    /// Where they were not timed equally often.
    pub(crate) fn times(
        what: impl Into<String>,
        ours: &Sample,
        peer: (&str, &Sample),
        most: Option<f64>,
    ) -> Result<Self> {
        let ratio = ours.over(peer.1)?;
        let target =
            most.map(|most| Target::at_most(ratio.median(), most, format!("ratio at most {most}")));
        Ok(Self {
            what: what.into(),
            n: ours.n(),
            ours: spread(ours, time),
            against: format!("{}: {}", peer.0, spread(peer.1, time)),
            ratio: spread(&ratio, |value| format!("{value:.2}")),
            target,
        })
    }

    /// Something that could not be measured, and why: its target is not reached.
    pub(crate) fn missing(what: impl Into<String>, why: &str, target: &str) -> Self {
        let ours = "not measured".to_owned();
        let against = why.replace(['\n', '|'], " ");
        let target = Some(Target { text: target.to_owned(), reached: false });
        Self { what: what.into(), n: 0, ours, against, ratio: "–".into(), target }
    }

    fn cells(&self) -> [String; 7] {
        let (text, verdict) = match &self.target {
            Some(Target { text, reached: true }) => (text.clone(), "yes"),
            Some(Target { text, reached: false }) => (text.clone(), "**no**"),
            None => ("–".to_owned(), ""),
        };
        let Self { what, n, ours, against, ratio, target: _ } = self.clone();
        [what, ours, against, ratio, n.to_string(), text, verdict.to_owned()]
    }
}

/// A median and the middle half around it.
pub(crate) fn spread(sample: &Sample, show: impl Fn(f64) -> String) -> String {
    let (low, high) = sample.quartiles();
    match sample.n() {
        1 => show(sample.median()),
        _ => format!("{} ({}–{})", show(sample.median()), show(low), show(high)),
    }
}

/// A time in milliseconds, with as many digits as mean something.
pub(crate) fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

/// The rows as a table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("| what | Shoal | against | ratio | n | target | reached |\n");
    text += "|---|---|---|---|---|---|---|\n";
    for row in rows {
        let _infallible = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text
}

/// Those rows that say that a target was missed, in words.
pub(crate) fn missed(rows: &[Row]) -> Vec<String> {
    let missed = rows.iter().filter_map(|row| match &row.target {
        Some(Target { text, reached: false }) => {
            Some(format!("{}: {}, ratio {}; should be {text}", row.what, row.ours, row.ratio))
        }
        _ => None,
    });
    missed.collect()
}

/// `page` with `content` in the place of the benchmark `name`.
///
/// # Errors
/// Where the page has no such place.
pub(crate) fn put(page: &str, name: &str, content: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->"));
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("the page has no marker `{}`", begin.trim_end()))?;
    let (_, after) =
        rest.split_once(&end).with_context(|| format!("the page has no marker `{end}`"))?;
    ensure!(!after.contains(&begin), "the page has two places for {name}");
    Ok(format!("{before}{begin}{}\n{end}{after}", content.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::of(values.to_vec()).unwrap()
    }

    #[test]
    fn a_row_tells_figures_ratio_and_whether_the_target_is_reached() {
        let (ours, peer) = (sample(&[1300.0, 1200.0, 1250.0]), sample(&[1000.0, 1000.0, 1000.0]));
        let row = Row::times("apply", &ours, ("`systemctl start`", &peer), Some(1.2)).unwrap();
        let table = table(std::slice::from_ref(&row));
        let last = table.lines().last().unwrap();
        assert_eq!(
            last,
            "| apply | 1.25 s (1.20 s–1.30 s) | `systemctl start`: 1.00 s (1.00 s–1.00 s) | \
             1.25 (1.20–1.30) | 3 | ratio at most 1.2 | **no** |"
        );
        assert_eq!(missed(std::slice::from_ref(&row)).len(), 1);
        let fine = Row::times("apply", &peer, ("x", &ours), Some(1.2)).unwrap();
        assert!(missed(&[fine]).is_empty());
    }

    #[test]
    fn what_was_not_measured_is_no_success() {
        let missed = missed(&[Row::missing("start", "no network", "faster")]);
        assert_eq!(missed, ["start: not measured, ratio –; should be faster"]);
    }

    #[test]
    fn a_limit_that_is_just_met_is_met() {
        assert!(Target::at_most(1.2, 1.2, "").reached);
        assert!(!Target::at_most(1.21, 1.2, "").reached);
    }

    #[test]
    fn every_line_has_as_many_cells_as_the_head() {
        let rows = [
            Row::missing("start", "it needs a|newer\nsystemd", "faster"),
            Row::times("x", &sample(&[1.0]), ("y", &sample(&[2.0])), None).unwrap(),
        ];
        for line in table(&rows).lines() {
            assert_eq!(line.matches('|').count(), 8, "{line}");
        }
    }

    #[test]
    fn times_keep_what_means_something() {
        assert_eq!(time(8.54), "8.5 ms");
        assert_eq!(time(412.4), "412 ms");
        assert_eq!(time(29_794.0), "29.79 s");
    }

    #[test]
    fn only_the_place_between_its_markers_changes() {
        let page = "# A\nprose\n<!-- bench:a -->\nold\n<!-- /bench:a -->\nmore\n\
                    <!-- bench:b -->\n<!-- /bench:b -->\n";
        let once = put(page, "a", "new\ntable\n").unwrap();
        assert_eq!(once, page.replace("old\n", "new\ntable\n"));
        assert_eq!(put(&once, "a", "old").unwrap(), page);
        let first = put(page, "b", "first").unwrap();
        assert!(first.ends_with("<!-- bench:b -->\nfirst\n<!-- /bench:b -->\n"), "{first}");
    }

    #[test]
    fn a_page_without_its_markers_is_not_touched() {
        for page in ["", "<!-- bench:a -->\n", "<!-- /bench:a -->", "<!-- bench:ab -->\n"] {
            assert!(put(page, "a", "x").unwrap_err().to_string().contains("no marker"), "{page}");
        }
    }
}
