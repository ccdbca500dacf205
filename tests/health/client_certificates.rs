//! Client certificates for https and grpcs, and gRPC over TLS and over a socket.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream, SupportedProtocolVersion};

use crate::grpc::{grpcio, read_request};
use crate::harness::place::{TempDir, unique};
use crate::server::{answer, read_head, serve};
use crate::tls::{Identity, authority, bundle, issued, names, self_signed};
use crate::{check, healthcheck, said};

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A server that speaks `alpn`, and requires a certificate signed by one of `clients`, if there are any; its port.
fn serving(
    own: &Identity,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<RootCertStore>,
) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(vec![own.certificate.clone()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let config = Arc::new(config);
    let http = alpn.contains(&"http/1.1");
    serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut stream);
        if http && !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(answer(200, "", "fine").as_bytes());
        }
        if !http && !read_request(&mut stream).is_empty() {
            let _ = stream.write_all(&grpcio(b"\x08\x01", "0"));
        }
        let _ = stream.read(&mut [0; 64]);
    })
}

fn file(dir: &TempDir, text: &str) -> PathBuf {
    dir.file(&unique(), text, 0o600)
}

#[test]
fn grpc_over_tls_trusts_as_https_does() {
    let dir = TempDir::new();
    let own = self_signed(names());
    let ca = bundle(&dir, &[&own.pem]);
    let ca = ["--ca", ca.to_str().unwrap()];
    // One with ALPN, as gRPC's own libraries require it, and one without.
    for alpn in [&["h2"][..], &[]] {
        let port = serving(&own, alpn, &BOTH, None);
        let target = format!("grpcs://localhost:{port}/a.B");
        check(&[&ca[..], &[&target]].concat()).expect(true, &["healthy grpcs://127.0.0.1:", "/a.B, status SERVING"]);
        check(&["--insecure", &target]).expect(true, &["SERVING"]);
        check(&["--insecure", &format!("grpcs:{port}")]).expect(true, &["the server as a whole serves"]);
        check(&[&target]).expect(false, &["--ca", "--insecure"]);
        // The wrong protocol on either side.
        check(&[&format!("grpc://localhost:{port}")]).expect(false, &[]);
    }
    let other = serving(&self_signed(vec!["example.org".to_owned()]), &["h2"], &BOTH, None);
    check(&[&ca[..], &[&format!("grpcs://localhost:{other}")]].concat()).expect(false, &["no trusted authority"]);
    let http = serving(&own, &["http/1.1"], &BOTH, None);
    check(&["--insecure", &format!("grpcs://localhost:{http}")])
        .expect(false, &["does not speak h2 here (ALPN)", "https://"]);
}

#[test]
fn grpc_works_over_a_unix_socket() {
    let dir = TempDir::new();
    let path = dir.path().join("grpc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for (stream, status) in listener.incoming().zip([b"\x08\x01", b"\x08\x02"]) {
            let mut stream = stream.unwrap();
            let request = read_request(&mut stream);
            assert!(request.windows(9).any(|part| part == b"localhost"), "{request:?}");
            stream.write_all(&grpcio(status, "0")).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let target = format!("grpc:unix:{}:/a.B", path.display());
    check(&[&target]).expect(true, &[&format!("healthy {target}, status SERVING")]);
    check(&[&target]).expect(false, &["status NOT_SERVING"]);
}

#[test]
fn a_client_certificate_is_sent_to_a_server_that_requests_it() {
    let dir = TempDir::new();
    let (own, trusted) = (self_signed(names()), authority());
    let client = |by| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issued(params, by)
    };
    let (mine, strange) = (client(&trusted), client(&authority()));
    let roots = || {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.der().clone()).unwrap();
        Some(roots)
    };
    let [cert, key, other_cert, other_key] =
        [&mine.pem, &mine.key.serialize_pem(), &strange.pem, &strange.key.serialize_pem()]
            .map(|text| file(&dir, text).to_str().unwrap().to_owned());
    for versions in [[&rustls::version::TLS13], [&rustls::version::TLS12]] {
        let https = format!("https://localhost:{}/", serving(&own, &["http/1.1"], &versions, roots()));
        let grpcs = format!("grpcs://localhost:{}", serving(&own, &["h2"], &versions, roots()));
        for url in [&https, &grpcs] {
            check(&["--insecure", "--cert", &cert, "--key", &key, url]).expect(true, &["status "]);
            // Without a certificate, and with one of another CA.
            check(&["--insecure", url]).expect(false, &["requires a client certificate", "--cert and --key"]);
            check(&["--insecure", "--cert", &other_cert, "--key", &other_key, url])
                .expect(false, &["does not accept the client certificate of --cert"]);
        }
        let by_variables = healthcheck().env("REBERTH_HEALTH_CERT", &cert).env("REBERTH_HEALTH_KEY", &key);
        said(by_variables.args(["--insecure", &https])).expect(true, &["status 200"]);
    }
    // A server that does not request a certificate gets none.
    let open = format!("https://localhost:{}/", serving(&own, &["http/1.1"], &BOTH, None));
    check(&["--insecure", "--cert", &cert, "--key", &key, &open]).expect(true, &["status 200"]);
}

#[test]
fn files_that_are_no_client_certificate_are_reported_with_their_flag() {
    let dir = TempDir::new();
    let own = self_signed(names());
    let url = format!("https://localhost:{}/", serving(&own, &["http/1.1"], &BOTH, None));
    let path = |text: &str| file(&dir, text).to_str().unwrap().to_owned();
    let (cert, key) = (path(&own.pem), path(&own.key.serialize_pem()));
    let other = path(&KeyPair::generate().unwrap().serialize_pem());
    let broken = path("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    for (cert, key, words) in [
        (&cert, &other, &["--key", "is not the key of"][..]),
        (&cert, &cert, &["--key", "no private key in PEM"]),
        (&cert, &broken, &["--key", "of a kind that reberth does not support"]),
        (&key, &key, &["--cert", "holds no certificate"]),
        (&cert, &"/nowhere/key".to_owned(), &["--key \"/nowhere/key\": no such file"]),
        (&"/dev/zero".to_owned(), &key, &["--cert", "not a regular file"]),
    ] {
        check(&["--insecure", "--cert", cert, "--key", key, &url]).expect(false, words);
    }
    check(&["--insecure", "--cert", &cert, "--key", &key, &url]).expect(true, &[]);
}
