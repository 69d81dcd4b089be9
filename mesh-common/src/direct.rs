//! Connections between two pods of one node that go past the agent.
//!
//! Must not know: who allowed them.

use crate::layout::Endpoint;

/// Both ends of a connection, named by what they are to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The end that dialled: its own address and port.
    pub client: Endpoint,
    /// The end that accepts, as packets name it: never the address of a Service.
    pub server: Endpoint,
}

#[cfg(feature = "user")]
mod user {
    use super::Ends;

    // SAFETY: `repr(C)`, ten `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Ends {}
}

#[cfg(test)]
mod tests {
    use super::Ends;

    #[test]
    fn keys_have_no_padding() {
        assert_eq!(size_of::<Ends>(), 40);
    }
}
