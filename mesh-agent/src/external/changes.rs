//! What an authorizer wants changed of a request or response that is let in.

use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::{CheckError, is_protected};

/// What becomes of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RequestChanges {
    /// Headers that are taken away first.
    pub remove: Vec<HeaderName>,
    /// Headers that are written.
    pub headers: Vec<HeaderChange>,
    /// Of its query.
    pub query: Vec<QueryChange>,
}

/// One header that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderChange {
    name: HeaderName,
    value: HeaderValue,
    mode: Mode,
}

/// What becomes of lines of the same name (`HeaderValueOption.append_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are replaced.
    Set,
    /// They stay, and a line is added.
    Append,
    /// They stay, and nothing is added.
    AddIfAbsent,
    /// They are replaced; where there is none, nothing is added.
    SetIfPresent,
}

/// One parameter of the query that is written, or taken away.
#[derive(Debug, PartialEq, Eq)]
pub struct QueryChange {
    /// Its name, as it stands in the query.
    pub name: String,
    /// Its value, as it stands there; `None` takes it away.
    pub value: Option<String>,
}

impl HeaderChange {
    /// `None` for a header in which nobody outside has a say.
    pub fn new(name: &str, value: &[u8], mode: Mode) -> Result<Option<Self>, CheckError> {
        if name.starts_with(':') {
            return Ok(None);
        }
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_invalid| CheckError::Unsendable("header"))?;
        if is_protected(&name) {
            return Ok(None);
        }
        let value = HeaderValue::from_bytes(value).map_err(|_invalid| CheckError::Unsendable("header"))?;
        Ok(Some(Self { name, value, mode }))
    }

    /// Writes it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let value = self.value.clone();
        match (headers.entry(&self.name), self.mode) {
            (Entry::Occupied(mut lines), Mode::Set | Mode::SetIfPresent) => {
                lines.insert(value);
            }
            (Entry::Occupied(mut lines), Mode::Append) => lines.append(value),
            (Entry::Occupied(_), Mode::AddIfAbsent) | (Entry::Vacant(_), Mode::SetIfPresent) => {}
            (Entry::Vacant(none), Mode::Set | Mode::Append | Mode::AddIfAbsent) => {
                none.insert(value);
            }
        }
    }
}

impl RequestChanges {
    /// Takes a header away, unless it is one in which nobody outside has a say.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), CheckError> {
        if name.starts_with(':') {
            return Ok(());
        }
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_invalid| CheckError::Unsendable("header"))?;
        if !is_protected(&name) {
            self.remove.push(name);
        }
        Ok(())
    }

    /// Changes the headers; removals come first, as in Envoy, so that a header may be replaced by other lines.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for change in &self.headers {
            change.apply(headers);
        }
    }

    /// The target with its query changed; `None` where nothing is.
    pub fn target(&self, target: &PathAndQuery) -> Result<Option<PathAndQuery>, CheckError> {
        if self.query.is_empty() {
            return Ok(None);
        }
        let parameters = target.query().into_iter().flat_map(|query| query.split('&'));
        let mut parameters: Vec<String> = parameters
            .filter(|parameter| !parameter.is_empty())
            .map(str::to_owned)
            .collect();
        for QueryChange { name, value } in &self.query {
            parameters.retain(|parameter| parameter.split('=').next() != Some(name));
            if let Some(value) = value {
                parameters.push(format!("{name}={value}"));
            }
        }
        let unsendable = || CheckError::Unsendable("query");
        let query = parameters.join("&");
        // A fragment would be cut off without a word, and with it what follows.
        if query.contains('#') {
            return Err(unsendable());
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let changed = format!("{}{mark}{query}", target.path()).parse();
        changed.map(Some).map_err(|_invalid| unsendable())
    }
}
