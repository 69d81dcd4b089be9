//! The agent's own log: one JSON object a line on the standard error.

use super::plain::Plain;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not `LEVEL` or `TARGET=LEVEL,...`.
    #[error("cannot read the log filter {filter:?}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The process already has a log.
    #[error("the log is already set up")]
    AlreadySet(#[source] TryInitError),
}

/// Sets up the process's log. `filter` is a level, or a list such as `info,mesh_agent::identity=debug`.
pub fn init(filter: &str) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let env_filter = EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(env_filter)
        .with_writer(|| Plain(std::io::stderr()))
        .finish()
        .try_init()
        .map_err(LogError::AlreadySet)
}

/// The client of API servers warns of each answer that it hands on as an error; who asked says what it means.
const QUIET: &str = "kube_client=error";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = init("mesh_agent=loud").unwrap_err();
        assert!(error.to_string().contains("mesh_agent=loud"), "{error}");
    }
}
