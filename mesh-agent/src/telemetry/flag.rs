//! Why a request or connection ended badly, in Envoy's vocabulary.

/// Envoy's response flags (`stream_info/utility.h`), as they stand in metrics and access logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlag {
    /// The client went away before the response was complete.
    Dc,
    /// The local health check failed.
    Lh,
    /// No healthy endpoint.
    Uh,
    /// The request timed out upstream.
    Ut,
    /// The agent reset the stream.
    Lr,
    /// The back end reset the stream.
    Ur,
    /// Connecting to the back end failed.
    Uf,
    /// The back end closed the connection.
    Uc,
    /// The back end is overloaded: a circuit breaker is open.
    Uo,
    /// All retries were used up.
    Urx,
    /// No route.
    Nr,
    /// Delayed by fault injection.
    Di,
    /// Aborted by fault injection.
    Fi,
    /// Rate limited.
    Rl,
    /// Denied by an authorization policy.
    Uaex,
    /// The rate limit service failed.
    Rlse,
    /// No byte moved for the idle time.
    Si,
    /// A header that the agent needs is invalid.
    Ih,
    /// The client broke the protocol.
    Dpe,
    /// The maximum duration of the connection or request was reached.
    Dt,
    /// The back end broke the protocol.
    Upe,
    /// The Service is not known.
    Nc,
    /// The agent sheds load.
    Om,
}

impl ResponseFlag {
    /// As Envoy prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dc => "DC",
            Self::Lh => "LH",
            Self::Uh => "UH",
            Self::Ut => "UT",
            Self::Lr => "LR",
            Self::Ur => "UR",
            Self::Uf => "UF",
            Self::Uc => "UC",
            Self::Uo => "UO",
            Self::Urx => "URX",
            Self::Nr => "NR",
            Self::Di => "DI",
            Self::Fi => "FI",
            Self::Rl => "RL",
            Self::Uaex => "UAEX",
            Self::Rlse => "RLSE",
            Self::Si => "SI",
            Self::Ih => "IH",
            Self::Dpe => "DPE",
            Self::Dt => "DT",
            Self::Upe => "UPE",
            Self::Nc => "NC",
            Self::Om => "OM",
        }
    }
}

/// What stands where there is no flag.
pub(super) fn text(flag: Option<ResponseFlag>) -> &'static str {
    flag.map_or("-", ResponseFlag::as_str)
}
