//! `[instance.NAME.limits]`: what an instance may use of its host.

use std::str::FromStr;

use crate::spec::{Limits, Memory};

use super::problem::short;
use super::report::Report;
use super::table::{Item, Section, optional};

/// Less would end whatever starts there; it is more likely that a unit was forgotten.
const LEAST_MEMORY: Memory = Memory(1 << 20);
/// More CPUs than any host has.
const MOST_CPU: u32 = 1_000_000;

/// Reads the table.
pub(super) fn read(mut section: Section<'_>, report: &mut Report<'_>) -> Option<Limits> {
    let (memory, cpu) = (section.take("memory"), section.take("cpu"));
    let (tasks, nofile) = (section.take("tasks"), section.take("nofile"));
    section.finish(&[], report);
    let memory = memory.map(|item| read_memory(&item, report));
    let cpu = cpu.map(|item| item.parsed("\"150%\"", report).map(|Percent(cpu)| cpu));
    let tasks = tasks.map(|item| number(&item, report));
    let nofile = nofile.map(|item| number(&item, report));
    Some(Limits {
        memory: optional(memory)?,
        cpu: optional(cpu)?,
        tasks: optional(tasks)?,
        nofile: optional(nofile)?,
    })
}

fn read_memory(item: &Item<'_>, report: &mut Report<'_>) -> Option<Memory> {
    let memory: Memory = item.parsed("\"512M\"", report)?;
    if memory < LEAST_MEMORY {
        item.wrong(format!("{memory} bytes are too few; write K, M, G or T, such as 512M"), report);
        return None;
    }
    Some(memory)
}

fn number(item: &Item<'_>, report: &mut Report<'_>) -> Option<u64> {
    let number = u64::try_from(item.integer(report)?).ok().filter(|n| *n > 0);
    if number.is_none() {
        item.wrong("must be at least 1", report);
    }
    number
}

/// CPU time in percent of one CPU.
struct Percent(u32);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        number.filter(|n| (1..=MOST_CPU).contains(n)).map(Self).ok_or_else(|| {
            let text = short(text, 80);
            format!(
                "{text:?} is no share of CPU time; write \"50%\" for half a CPU, \"200%\" for two"
            )
        })
    }
}
