//! The agent's own log: one JSON object a line on the standard error.

use super::plain::Plain;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

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
    let env_filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    lines(env_filter, || Plain(std::io::stderr()))
        .try_init()
        .map_err(LogError::AlreadySet)
}

/// Writes what `filter` lets through to what `writer` makes.
fn lines<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer);
    let filter = filter.and(filter_fn(is_for_operators));
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

/// The client of API servers warns of each answer that it hands on as an error too, with the whole answer: of kinds that
/// are not installed at each question, and of a Secret that does not decode with its keys. Who asked says what it means.
fn is_for_operators(about: &Metadata<'_>) -> bool {
    about.target() != API_CLIENT || *about.level() != Level::WARN
}

/// Where `kube` answers; what it says of certificates and settings comes from other modules.
const API_CLIENT: &str = "kube_client::client";

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = init("mesh_agent=loud").unwrap_err();
        assert!(error.to_string().contains("mesh_agent=loud"), "{error}");
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log has of what `act` says.
    fn logged(filter: &str, act: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = lines(EnvFilter::new(filter), move || writer.clone());
        tracing::subscriber::with_default(log, act);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_the_client_of_api_servers_hands_on_as_an_error_is_not_logged_twice() {
        let log = logged("info", || {
            tracing::warn!(target: "kube_client::client", "Unsuccessful data error parse: 404 page not found");
        });
        assert_eq!(log, "");
    }

    #[test]
    fn real_failures_of_the_client_of_api_servers_are_logged() {
        let log = logged("info", || {
            tracing::warn!(target: "kube_client::client::tls", "failed to reload CA bundle");
            tracing::error!(target: "kube_client::client::builder", "failed with error refused");
            tracing::warn!(target: "kube_runtime::watcher", "watch list error with 403");
            tracing::warn!(target: "mesh_agent", "pod is not there");
        });
        assert_eq!(log.lines().count(), 4, "{log}");
    }

    #[test]
    fn the_filter_says_what_is_logged() {
        let log = logged("error,mesh_agent::identity=debug", || {
            tracing::warn!(target: "mesh_agent", "left out");
            tracing::debug!(target: "mesh_agent::identity", "renewed");
            tracing::error!(target: "mesh_agent", "broken");
        });
        assert!(
            log.contains("renewed") && log.contains("broken") && log.lines().count() == 2,
            "{log}"
        );
    }
}
