//! What the verifier may need for each program: a program that outgrows its budget is noticed here, long before an
//! older kernel refuses it.
//!
//! Must not know: what a program does.

/// Instructions that the verifier may walk through until it accepts a program, on every kernel of docs/kernels.md. The
/// kernel's own limit is a million (`BPF_COMPLEXITY_LIMIT_INSNS`); a figure here is at least a third above what the
/// hungriest kernel needs today, and is raised by whoever can say what for.
pub const BUDGETS: [(&str, u32); 14] = [
    ("mesh_sk_lookup", 1_500),
    ("mesh_sk_refuse", 500),
    ("mesh_sock_ops", 20_000),
    ("mesh_peername4", 500),
    ("mesh_peername6", 500),
    ("mesh_recvmsg4", 500),
    ("mesh_recvmsg6", 500),
    ("mesh_sendmsg4", 12_000),
    ("mesh_sendmsg6", 20_000),
    ("mesh_connect4", 15_000),
    ("mesh_connect6", 25_000),
    ("mesh_leg_ops", 10_000),
    // Loaded only where this kernel can splice.
    ("mesh_sk_msg", 2_000),
    ("mesh_read", 1_000),
];

/// What the kernel says that a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name in the object file.
    pub program: String,
    /// Bytes of its instructions after the verifier rewrote them.
    pub translated_bytes: u32,
    /// Instructions that the verifier walked through, those of every path; `None` before Linux 5.16.
    pub instructions: Option<u32>,
}

impl Verified {
    /// What it may need; `None` for a program that nobody gave a budget.
    pub fn budget(&self) -> Option<u32> {
        let mut budgets = BUDGETS.iter();
        budgets
            .find(|(program, _)| *program == self.program)
            .map(|(_, budget)| *budget)
    }
}
