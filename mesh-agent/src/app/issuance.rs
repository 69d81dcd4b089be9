//! Who signs this node's certificates, as configured, and the revocation lists beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Config, Issuance};
use crate::identity::spire::{SpireIssuer, SpireSettings};
use crate::identity::{
    CaClient, CaClientSettings, Certificates, EmbeddedCa, Federation, FileIssuer, Issuer, Revoked, TrustRules,
};
use crate::lifecycle::{Stop, Tasks};
use crate::mesh::identity::SpiffeId;

/// The store over the configured issuer, and the tasks that read revocation lists and other meshes' bundles.
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
        ..TrustRules::default()
    });
    let store = Certificates::with_rules(issuer(config, tasks)?, tasks, rules.subscribe());
    let lists = config.crl_file.clone().map(Followed::Lists);
    let bundles = config.trust_bundle_dir.clone().map(|dir| Followed::Bundles {
        dir,
        own: own_trust_domains(config).map(str::to_owned).collect(),
    });
    for followed in [lists, bundles].into_iter().flatten() {
        // The agent does not start with a list that it cannot read: it would let in whom the list keeps out.
        let news = followed.read()?;
        rules.send_modify(|rules| news.apply(rules));
        tasks.spawn(followed.task(), follow(followed, rules.clone(), tasks.stop()));
    }
    Ok(store)
}

/// The names of this mesh's trust domain, its own first.
pub(super) fn own_trust_domains(config: &Config) -> impl Iterator<Item = &str> {
    let aliases = config.trust_domain_aliases.iter().map(String::as_str);
    std::iter::once(config.trust_domain.as_str()).chain(aliases)
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

/// Files that say whom handshakes trust.
#[derive(Debug, Clone)]
enum Followed {
    /// Of revocation lists.
    Lists(PathBuf),
    /// A directory of other meshes' trust bundles.
    Bundles {
        dir: PathBuf,
        /// The trust domains that are not another mesh's.
        own: Vec<String>,
    },
}

/// What was read.
enum News {
    Lists(Revoked),
    Bundles(Federation),
}

impl Followed {
    fn task(&self) -> &'static str {
        match self {
            Self::Lists(_) => "revocation-lists",
            Self::Bundles { .. } => "trust-bundles",
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Lists(path) | Self::Bundles { dir: path, .. } => path,
        }
    }

    fn read(&self) -> anyhow::Result<News> {
        match self {
            Self::Lists(path) => {
                let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let lists = Revoked::from_pem(&text)
                    .with_context(|| format!("{} holds no usable revocation lists", path.display()))?;
                Ok(News::Lists(lists))
            }
            Self::Bundles { dir, own } => {
                let bundles =
                    Federation::read(dir, own).context("the trust bundles of other meshes cannot be used")?;
                Ok(News::Bundles(bundles))
            }
        }
    }

    /// Differs when something was written: names, times and sizes of the file, or of all in the directory.
    fn fingerprint(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let of = |path: PathBuf| {
            let file = std::fs::metadata(&path).ok()?;
            Some((path, file.modified().ok()?, file.len()))
        };
        let mut paths = vec![self.path().to_owned()];
        if let Ok(entries) = std::fs::read_dir(self.path()) {
            paths.extend(entries.flatten().map(|entry| entry.path()));
        }
        paths.sort();
        paths.into_iter().filter_map(of).collect()
    }
}

impl News {
    fn apply(self, rules: &mut TrustRules) {
        match self {
            Self::Lists(revoked) => {
                tracing::info!(lists = revoked.len(), "revocation lists read");
                rules.revoked = revoked;
            }
            Self::Bundles(federation) => {
                tracing::info!(trust_domains = ?federation, "trust bundles read");
                rules.federation = federation;
            }
        }
    }
}

/// What cannot be read leaves the last in force, and is named once.
async fn follow(followed: Followed, rules: watch::Sender<TrustRules>, stop: Stop) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut is_heard) = (followed.fingerprint(), true);
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        let found = followed.fingerprint();
        if found == seen && is_heard {
            continue;
        }
        match followed.read() {
            Ok(news) => {
                rules.send_modify(|rules| news.apply(rules));
                is_heard = true;
            }
            Err(error) => {
                if is_heard || found != seen {
                    tracing::error!(
                        path = %followed.path().display(),
                        error = format!("{error:#}"),
                        "what was read last stays in force"
                    );
                }
                is_heard = false;
            }
        }
        seen = found;
    }
}

/// A revocation ends connections within a second of its arrival, this included.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
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
        let followed = Followed::Lists(path.clone());
        tasks.spawn("lists", follow(followed, rules, tasks.stop()));

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
    #[tokio::test(start_paused = true)]
    async fn a_bundle_that_comes_is_put_in_force_and_one_that_goes_is_not_trusted_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let rules = watch::Sender::new(TrustRules::default());
        let mut seen = rules.subscribe();
        let tasks = Tasks::new();
        let followed = Followed::Bundles {
            dir: dir.path().to_owned(),
            own: vec!["cluster.local".to_owned()],
        };
        tasks.spawn("bundles", follow(followed, rules, tasks.stop()));
        let trusted = |rules: &TrustRules| rules.federation.trust_domains().map(str::to_owned).collect();

        tokio::time::sleep(LOOK / 2).await;
        let path = dir.path().join("far.example.pem");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&path, root.pem()).unwrap();
        seen.changed().await.unwrap();
        let found: Vec<String> = trusted(&seen.borrow_and_update());
        assert_eq!(found, ["far.example"]);

        std::fs::write(dir.path().join("cluster.local.pem"), root.pem()).unwrap();
        tokio::time::sleep(3 * LOOK).await;
        assert!(
            !seen.has_changed().unwrap(),
            "a bundle of our own changes nothing"
        );
        std::fs::remove_file(dir.path().join("cluster.local.pem")).unwrap();
        seen.changed().await.unwrap();
        seen.borrow_and_update();

        std::fs::remove_file(&path).unwrap();
        seen.changed().await.unwrap();
        let found: Vec<String> = trusted(&seen.borrow());
        assert!(found.is_empty());
    }
}
