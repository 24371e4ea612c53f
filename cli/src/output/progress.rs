//! How far a transfer is: a bar on a terminal, plain lines elsewhere. Goes to standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;
use super::size::{bytes, percent};

/// Percent between two lines where there is no terminal.
const LINE_EVERY: u64 = 10;

/// The progress of one transfer. Shown on standard error.
#[derive(Debug)]
pub(crate) struct Transfer {
    what: String,
    total: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { next: u64, console: Console },
}

impl Transfer {
    /// `what` is going on, over `total` bytes.
    pub(crate) fn start(console: Console, what: &str, total: u64) -> Self {
        let shown = if console.is_live() {
            Shown::Bar(bar(what, total))
        } else {
            Shown::Lines { next: 0, console }
        };
        Self { what: what.to_owned(), total, shown }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { next, console } => {
                if let Some(line) = line(&self.what, done, self.total, next) {
                    console.note(line);
                }
            }
        }
    }

    /// Takes the bar away; what comes next is said in words.
    pub(crate) fn end(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
         {binary_bytes_per_sec}  {eta}",
    );
    // The template is a constant; were it wrong, the default bar would do.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

/// The line to write at `done`, if it is time for one; moves `next` on.
fn line(what: &str, done: u64, total: u64, next: &mut u64) -> Option<String> {
    let percent = percent(done, total);
    if percent < *next {
        return None;
    }
    *next = (percent / LINE_EVERY + 1) * LINE_EVERY;
    Some(format!("{what}: {percent} % ({} of {})", bytes(done), bytes(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_tenth_and_no_more() {
        let mut next = 0;
        let lines: Vec<String> =
            (0..=1000).filter_map(|done| line("sending", done, 1000, &mut next)).collect();
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[0], "sending: 0 % (0 B of 1000 B)");
        assert_eq!(lines[10], "sending: 100 % (1000 B of 1000 B)");
    }

    #[test]
    fn a_resumed_transfer_begins_where_it_is() {
        let mut next = 0;
        assert!(line("sending", 456, 1000, &mut next).unwrap().contains("45 %"));
        assert_eq!(next, 50);
        assert_eq!(line("sending", 499, 1000, &mut next), None);
    }
}
