use std::io;
use std::sync::{Arc, Mutex};

use indicatif::TermLike;
use shoal_proto::v1::{HoldKind, OutcomeKind, Rollout, RolloutState};

use super::*;
use crate::view::samples::{hold, rollout, second_batch};

#[test]
fn what_comes_again_and_again_is_told_once() {
    let news = |weight, text: &str| News { weight, text: text.into() };
    let mut told = Told::default();
    assert!(told.is_new(&news(Weight::Step, "h1: changing: starting")));
    assert!(told.is_new(&news(Weight::Step, "h1: changing: no such file")));
    assert!(!told.is_new(&news(Weight::Step, "h1: changing: starting")));
    assert!(told.is_new(&news(Weight::Change, "h1: ready")));
    assert!(told.is_new(&news(Weight::Change, "h1: ready")));
}

/// How many columns the terminal has.
const WIDTH: usize = 70;

/// A terminal in memory.
#[derive(Debug, Clone, Default)]
struct Terminal(Arc<Mutex<Grid>>);

#[derive(Debug, Default)]
struct Grid {
    lines: Vec<String>,
    row: usize,
    column: usize,
}

impl Grid {
    fn write(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' => (self.row, self.column) = (self.row + 1, 0),
                '\r' => self.column = 0,
                c => self.put(c),
            }
        }
        self.lines.resize(self.lines.len().max(self.row + 1), String::new());
    }

    fn put(&mut self, c: char) {
        if self.column == WIDTH {
            (self.row, self.column) = (self.row + 1, 0);
        }
        self.lines.resize(self.lines.len().max(self.row + 1), String::new());
        let line = &mut self.lines[self.row];
        let mut chars: Vec<char> = line.chars().collect();
        chars.resize(chars.len().max(self.column + 1), ' ');
        chars[self.column] = c;
        *line = chars.into_iter().collect();
        self.column += 1;
    }
}

impl Terminal {
    fn done(&self, act: impl FnOnce(&mut Grid)) -> io::Result<()> {
        act(&mut self.0.lock().unwrap());
        Ok(())
    }

    /// What is to be read on it.
    fn text(&self) -> String {
        let grid = self.0.lock().unwrap();
        let lines: Vec<&str> = grid.lines.iter().map(|line| line.trim_end()).collect();
        lines.join("\n").trim_end().to_owned()
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        u16::try_from(WIDTH).unwrap()
    }

    fn height(&self) -> u16 {
        40
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.done(|grid| grid.row = grid.row.saturating_sub(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.done(|grid| grid.row += n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.done(|grid| grid.column += n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.done(|grid| grid.column = grid.column.saturating_sub(n))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.done(|grid| grid.write(&format!("{text}\n")))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.done(|grid| grid.write(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.done(|grid| {
            let row = grid.row;
            grid.lines.resize(grid.lines.len().max(row + 1), String::new());
            grid.lines[row].clear();
            grid.column = 0;
        })
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn view(wire: Rollout) -> RolloutView {
    wire.try_into().unwrap()
}

/// Draws until the terminal has all of it: it is not drawn more often than some times a second.
fn shown(live: &mut Live, terminal: &Terminal, wire: Rollout, last: &str) -> String {
    let scene = view(wire).scene();
    for _ in 0..200 {
        live.draw(&scene);
        let text = terminal.text();
        if text.ends_with(last) {
            // The mark in front of the first line moves.
            let (_, rest) = text.split_once("shop").unwrap();
            return format!("shop{rest}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{}", terminal.text());
}

#[test]
fn a_terminal_has_a_bar_for_each_batch_and_a_line_for_each_host() {
    let terminal = Terminal::default();
    let mut live = Live::new(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
    let canary = [("h1", OutcomeKind::Changing, "shop/main: waits for its checks")];
    let canary = rollout(RolloutState::Changing, &canary);
    let first = shown(&mut live, &terminal, canary, "waits for its checks");
    let second = second_batch(RolloutState::Changing);
    let second = shown(&mut live, &terminal, second, "changes when it is back");
    let held = Rollout {
        hold: hold(HoldKind::Promotion, "batch 1 is healthy"),
        ..rollout(RolloutState::Planned, &[("h1", OutcomeKind::Ready, "")])
    };
    let held = shown(&mut live, &terminal, held, "1 of 1");
    insta::assert_snapshot!([first, second, held].join("\n\n"));
    live.clear();
    assert_eq!(terminal.text(), "");
}
