use super::*;

/// A root of the same mesh: `root.pem` and its certificate alone.
fn other_root() -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let text = crate::identity::read_or_make_root(dir.path(), "cluster.local").unwrap();
    let (certificate, _) = text.split_once("-----BEGIN PRIVATE").unwrap();
    (text.to_string(), certificate.to_owned())
}

#[tokio::test]
async fn a_root_is_rotated_in_three_steps_and_each_reaches_agents_with_their_next_certificate() {
    let ca = fixture().await;
    let (client, dir) = (ca.client(A), ca.dir.path().join("ca"));
    client.issue(&id("web")).await.unwrap();
    let (new, new_certificate) = other_root();
    let old_certificate = fs::read_to_string(ca.dir.path().join("bundle.pem")).unwrap();

    fs::write(
        dir.join("also-trusted.pem"),
        format!("{new_certificate}{old_certificate}"),
    )
    .unwrap();
    assert!(ca.keys.reload(SystemTime::now()).unwrap());
    client.issue(&id("web")).await.unwrap();
    assert_eq!(client.roots().borrow().len(), 2);

    secret(&dir.join("aside"), &new);
    fs::rename(dir.join("aside"), dir.join("root.pem")).unwrap();
    assert!(ca.keys.reload(SystemTime::now()).unwrap());
    // Its bundle file is the old one: the agent trusts what the CA named before.
    let stale = ca.dir.path().join("stale.pem");
    fs::write(&stale, &old_certificate).unwrap();
    fs::rename(stale, ca.dir.path().join("bundle.pem")).unwrap();
    client.issue(&id("web")).await.unwrap();

    fs::remove_file(dir.join("also-trusted.pem")).unwrap();
    assert!(ca.keys.reload(SystemTime::now()).unwrap());
    client.issue(&id("web")).await.unwrap();
    assert_eq!(client.roots().borrow().len(), 1);
    assert!(
        !ca.keys.reload(SystemTime::now()).unwrap(),
        "nothing changed since"
    );
}

#[tokio::test]
async fn an_intermediate_of_istios_layout_signs_and_its_chain_is_handed_out() {
    let ca = fixture().await;
    let dir = ca.dir.path().join("ca");
    let (root_key, int_key) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params
    };
    let root = authority("root").self_signed(&root_key).unwrap();
    let above = rcgen::Issuer::new(authority("root"), &root_key);
    let intermediate = authority("intermediate").signed_by(&int_key, &above).unwrap();
    fs::write(dir.join("ca-cert.pem"), intermediate.pem()).unwrap();
    fs::write(dir.join("cert-chain.pem"), intermediate.pem()).unwrap();
    fs::write(dir.join("root-cert.pem"), root.pem()).unwrap();
    secret(&dir.join("ca-key.pem"), &int_key.serialize_pem());
    assert!(ca.keys.reload(SystemTime::now()).unwrap());

    let client = ca.client(A);
    client.issue(&id("web")).await.unwrap();
    assert_eq!(client.roots().borrow()[0], *root.der());
    assert_eq!(
        fs::read_to_string(ca.dir.path().join("bundle.pem")).unwrap(),
        crate::identity::pem::encode(root.der())
    );
}

#[tokio::test]
async fn files_that_do_not_fit_leave_the_last_keys_in_force() {
    let ca = fixture().await;
    let dir = ca.dir.path().join("ca");
    let (_, stranger) = other_root();
    let (foreign, _) = other_root();
    let (_, key) = foreign.split_once("-----BEGIN PRIVATE").unwrap();
    fs::write(dir.join("ca-cert.pem"), &stranger).unwrap();
    fs::write(dir.join("root-cert.pem"), &stranger).unwrap();
    secret(&dir.join("ca-key.pem"), &format!("-----BEGIN PRIVATE{key}"));
    let error = error_chain(&ca.keys.reload(SystemTime::now()).unwrap_err());
    assert!(error.contains("the key is not the certificate's"), "{error}");
    fs::set_permissions(dir.join("ca-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(dir.join("ca-cert.pem"), "").unwrap();
    let error = error_chain(&ca.keys.reload(SystemTime::now()).unwrap_err());
    assert!(error.contains("mode 644"), "{error}");
    ca.ask(A, &id("web")).await.unwrap();
}
