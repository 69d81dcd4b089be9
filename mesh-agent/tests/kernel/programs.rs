//! What the kernel says of the programs themselves: `--nocapture` prints it.

use std::collections::BTreeSet;

use mesh_agent::kernel::budget::{BUDGETS, Verified};

use crate::in_lab;
use crate::lab::Lab;

#[test]
fn every_program_stays_within_its_budget_of_instructions() {
    in_lab(async || {
        let lab = Lab::up("budget")?;
        let verified = lab.kernel()?.verified()?;
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
        let budgeted = BUDGETS.iter().map(|(program, _)| *program).collect();
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
