//! What the kernel says of the programs themselves: `--nocapture` prints it.

use std::collections::BTreeSet;
use std::path::Path;

use mesh_agent::kernel::budget::{BUDGETS, Verified};
use mesh_agent::kernel::capacity::Capacity;
use mesh_agent::kernel::loader::Programs;
use mesh_agent::kernel::pins::Pins;
use mesh_agent::kernel::preflight::Preflight;

use crate::in_lab;
use crate::lab::{Lab, NODE};

#[test]
fn an_agent_serves_here_or_says_in_one_line_why_not() {
    in_lab(async || {
        let lab = Lab::up("serves")?;
        if let Err(error) = lab.kernel() {
            let line = error.to_string();
            assert!(line.contains("use Linux 5.15 or later"), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
            eprintln!("refused: {line}");
            return Ok(());
        }
        let found = Preflight::run()?;
        feature("bpf_set_retval", found.can_set_retval);
        feature("MPTCP_sockets", Path::new("/proc/sys/net/mptcp/enabled").exists());
        Ok(())
    });
}

#[test]
fn the_verifier_takes_the_programs_without_the_helper_that_tells_why() {
    in_lab(async || {
        let lab = Lab::up("retval")?;
        let found = Preflight {
            can_set_retval: false,
            ..Preflight::run()?
        };
        let pins = Pins::make(lab.bpf(), NODE)?;
        Programs::load(&found, &pins, Capacity::default())?;
        Ok(())
    });
}

/// Says what this kernel has: `cargo xtask vm-test` makes a table of it.
fn feature(name: &str, is_there: bool) {
    eprintln!("feature {name}={}", if is_there { "yes" } else { "no" });
}

#[test]
fn every_program_stays_within_its_budget_of_instructions() {
    in_lab(async || {
        let lab = Lab::up("budget")?;
        let mut kernel = lab.kernel()?;
        let can_splice = kernel.attach_splice().is_ok();
        let verified = kernel.verified()?;
        for program in &verified {
            eprintln!("{}", row(program));
        }
        for program in &verified {
            let budget = program
                .budget()
                .ok_or_else(|| format!("no budget: {program:?}"))?;
            // What no kernel tells nobody can compare: all that we can test on do tell.
            let walked = program
                .instructions
                .ok_or("needs Linux 5.16 or later: the verifier tells no count")?;
            assert!(
                walked > 0 && walked <= budget,
                "{program:?}: the budget is {budget}"
            );
        }
        let loaded: BTreeSet<&str> = verified.iter().map(|one| one.program.as_str()).collect();
        let is_here = |program: &&str| can_splice || !["mesh_sk_msg", "mesh_read"].contains(program);
        let budgeted = BUDGETS
            .iter()
            .map(|(program, _)| *program)
            .filter(is_here)
            .collect();
        assert_eq!(
            loaded, budgeted,
            "each program has a budget, each budget a program"
        );
        Ok(())
    });
}

/// `cargo xtask vm-test` reads it.
fn row(program: &Verified) -> String {
    format!(
        "program {} walked={} bytes={} budget={}",
        program.program,
        program.instructions.unwrap_or_default(),
        program.translated_bytes,
        program.budget().unwrap_or_default()
    )
}
