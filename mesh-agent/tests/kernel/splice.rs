//! The splice on the running kernel.

use std::io;

use mesh_agent::kernel::splice::{SpliceState, SpliceStatus, trial};

#[test]
fn every_check_of_the_trial_holds_or_it_says_what_the_kernel_lacks() {
    if std::env::var_os("MESH_LAB").is_none() {
        eprintln!("needs MESH_LAB=1 and root: nothing was tested");
        return;
    }
    let status = trial::run();
    let has_tracepoint = describes_tracepoint().unwrap();
    // `cargo xtask vm-test` makes a row of it.
    eprintln!("feature splice={}", if has_tracepoint { "yes" } else { "no" });
    if has_tracepoint {
        every_check_holds(&status);
    } else {
        assert_eq!(status.state, SpliceState::Off, "{status:?}");
        assert_eq!(
            status.why,
            "no tracepoint sock_recv_length: use Linux 6.3 or later"
        );
        assert!(status.checks.is_empty(), "{status:?}");
    }
}

fn every_check_holds(status: &SpliceStatus) {
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

/// Whether the kernel's description of itself has the tracepoint's type, found by its plain name: not as the agent asks.
fn describes_tracepoint() -> io::Result<bool> {
    let description = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let name = b"\0btf_trace_sock_recv_length\0";
    Ok(description.windows(name.len()).any(|bytes| bytes == name))
}
