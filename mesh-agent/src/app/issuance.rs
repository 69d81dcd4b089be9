//! Who signs this node's certificates, as configured, and the revocation lists beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Config, Issuance};
use crate::identity::spire::{SpireIssuer, SpireSettings};
use crate::identity::{
    CaClient, CaClientSettings, Certificates, EmbeddedCa, FileIssuer, Issuer, Revoked, TrustRules,
};
use crate::lifecycle::{Stop, Tasks};
use crate::mesh::identity::SpiffeId;

/// The store over the configured issuer, and the task that reads revocation lists.
pub(super) fn certificates(config: &Config, tasks: &Tasks) -> anyhow::Result<Certificates> {
    for alias in &config.trust_domain_aliases {
        SpiffeId::new(alias, "any", "any").with_context(|| format!("trust_domain_aliases: {alias:?}"))?;
    }
    let rules = watch::Sender::new(TrustRules {
        aliases: config
            .trust_domain_aliases
            .iter()
            .map(|alias| alias.as_str().into())
            .collect(),
        revoked: Revoked::default(),
    });
    let store = Certificates::with_rules(issuer(config, tasks)?, tasks, rules.subscribe());
    if let Some(path) = &config.crl_file {
        // The agent does not start with a list that it cannot read: it would let in whom the list keeps out.
        let revoked = read_lists(path)?;
        rules.send_modify(|rules| rules.revoked = revoked);
        tasks.spawn(
            "revocation-lists",
            follow_lists(path.clone(), rules, tasks.stop()),
        );
    }
    Ok(store)
}

fn issuer(config: &Config, tasks: &Tasks) -> anyhow::Result<Arc<dyn Issuer>> {
    Ok(match &config.issuance {
        Issuance::Embedded => Arc::new(EmbeddedCa::open(
            &config.ca_dir,
            &config.trust_domain,
            config.certificate_ttl,
        )?),
        Issuance::Service {
            addr,
            root_file,
            token_file,
        } => Arc::new(CaClient::new(CaClientSettings {
            addr: addr
                .parse()
                .map_err(anyhow::Error::msg)
                .context("ca_addr cannot be used")?,
            root_file: root_file.clone(),
            token_file: token_file.clone(),
            ttl: config.certificate_ttl,
        })),
        Issuance::Files(dir) => Arc::new(FileIssuer::new(dir.clone())),
        Issuance::Spire { socket, selectors } => {
            let settings = SpireSettings {
                socket: socket.clone(),
                selectors: selectors.parse().context("spire_selectors cannot be used")?,
                trust_domain: config.trust_domain.clone(),
            };
            Arc::new(SpireIssuer::start(settings, tasks))
        }
    })
}

fn read_lists(path: &Path) -> anyhow::Result<Revoked> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Revoked::from_pem(&text).with_context(|| format!("{} holds no usable revocation lists", path.display()))
}

/// A list that cannot be read leaves the last one in force, and is named once.
async fn follow_lists(path: PathBuf, rules: watch::Sender<TrustRules>, stop: Stop) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut is_heard) = (modified(&path), true);
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        let found = modified(&path);
        if found == seen && is_heard {
            continue;
        }
        match read_lists(&path) {
            Ok(revoked) => {
                tracing::info!(path = %path.display(), lists = revoked.len(), "revocation lists read");
                rules.send_modify(|rules| rules.revoked = revoked);
                is_heard = true;
            }
            Err(error) => {
                if is_heard || found != seen {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the last revocation lists stay in force"
                    );
                }
                is_heard = false;
            }
        }
        seen = found;
    }
}

fn modified(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod,
        KeyPair, SerialNumber,
    };

    use super::*;

    /// A list that revokes nothing, as PEM.
    fn list() -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let now = SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_hours(1)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&Issuer::new(params, key)).unwrap().pem().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_list_is_put_in_force_and_a_wrong_one_leaves_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists.pem");
        std::fs::write(&path, "").unwrap();
        let rules = watch::Sender::new(TrustRules::default());
        let mut seen = rules.subscribe();
        let tasks = Tasks::new();
        tasks.spawn("lists", follow_lists(path.clone(), rules, tasks.stop()));

        // The first look must not find it already: it would be no change.
        tokio::time::sleep(LOOK / 2).await;
        std::fs::write(&path, list() + &list()).unwrap();
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow_and_update().revoked.len(), 2);

        std::fs::write(&path, &list()[..100]).unwrap();
        tokio::time::sleep(3 * LOOK).await;
        assert!(!seen.has_changed().unwrap());

        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(3 * LOOK).await;
        assert!(!seen.has_changed().unwrap());

        std::fs::write(&path, list()).unwrap();
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow().revoked.len(), 1);
    }
}
