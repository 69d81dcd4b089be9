//! The splice on the running kernel.

use mesh_agent::kernel::splice::{SpliceState, trial};

#[test]
fn every_check_of_the_trial_holds_on_this_kernel() {
    if std::env::var_os("MESH_LAB").is_none() {
        eprintln!("needs MESH_LAB=1 and root: nothing was tested");
        return;
    }
    let status = trial::run();
    let lines: Vec<String> = status.checks.iter().map(|one| format!("{one:?}")).collect();
    assert_eq!(
        status.state,
        SpliceState::On,
        "{}\n{}",
        status.why,
        lines.join("\n")
    );
    eprintln!("{}", lines.join("\n"));
}
