//! `shoal ps` over three hosts: the whole command, from its start to its end.

use anyhow::Result;
use shoal_lab::Suite;

use super::Run;
use super::report::{Row, Target};
use super::stand;
use super::stats::Sample;

const HOSTS: usize = 3;
const ROUNDS: usize = 50;
/// Milliseconds.
const LIMIT: f64 = 50.0;

const FLEET: &str = r#"
fleet = "bench"
[instance.one]
image = "box:1"
hosts = "role=web"
command = ["/bin/sleep", "infinity"]
[instance.two]
image = "box:1"
hosts = "role=web"
command = ["/bin/sleep", "infinity"]
"#;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let deployment = stand::open(&run.programs, "ps", Suite::Bookworm, HOSTS)?;
    run.met(deployment.lab().host(0))?;
    stand::push_box(&deployment)?;
    stand::apply(&deployment, FLEET)?;
    let (mut ps, mut version) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ps.push(stand::timed(&deployment, &["ps"])?);
        version.push(stand::timed(&deployment, &["version", "--client"])?);
    }
    let (ps, version) = (Sample::of_times(&ps)?, Sample::of_times(&version)?);
    let what = format!("`shoal ps`, {HOSTS} hosts with 2 instances each");
    let row = Row::times(what, &ps, ("`shoal version --client`", &version), None)?;
    let target = Some(Target::at_most(ps.median(), LIMIT, "under 50 ms"));
    Ok(vec![Row { target, ..row }])
}
