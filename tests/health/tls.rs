//! https: which certificates a probe trusts, and what it prints when it does not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::harness::place::TempDir;
use crate::server::{Server, answer, hostile, pace, read_head, serve};
use crate::{check, healthcheck, said};

/// A certificate that a server presents, and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

pub fn names() -> Vec<String> {
    vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
}

pub fn self_signed(names: Vec<String>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Identity { certificate: certificate.der().clone(), pem: certificate.pem(), key }
}

pub fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub fn issued(params: CertificateParams, by: &CertifiedIssuer<'static, KeyPair>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Identity { certificate: certificate.der().clone(), pem: certificate.pem(), key }
}

/// An https server that answers 200 to everything; its port.
fn https(identity: &Identity) -> u16 {
    https_with(identity, answer(200, "", "fine"), |stream| {
        let _ = stream.read(&mut [0]);
    })
}

/// The same with this answer, and with what is done after it.
fn https_with(
    identity: &Identity,
    text: String,
    after: impl Fn(&mut Stream<'_, ServerConnection, TcpStream>) + Send + Sync + 'static,
) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut stream);
        if !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(text.as_bytes());
            after(&mut stream);
        }
    })
}

pub fn bundle(dir: &TempDir, pems: &[&str]) -> PathBuf {
    dir.file(&crate::harness::place::unique(), pems.concat(), 0o644)
}

#[test]
fn a_server_certificate_named_by_ca_is_trusted_and_its_name_checked() {
    let dir = TempDir::new();
    let (mine, other) = (self_signed(names()), self_signed(names()));
    let port = https(&mine);
    let ca = bundle(&dir, &[&other.pem, &mine.pem]);
    let ca = ca.to_str().unwrap();
    check(&["--ca", ca, "--body-contains", "fine", &format!("https://127.0.0.1:{port}/")])
        .expect(true, &["status 200"]);
    check(&["--ca", ca, &format!("https://localhost:{port}/")]).expect(true, &["status 200"]);
    let elsewhere = https(&self_signed(vec!["example.org".to_owned()]));
    check(&["--ca", ca, &format!("https://127.0.0.1:{elsewhere}/")]).expect(false, &["--ca", "--insecure"]);
    let stranger = bundle(&dir, &[&other.pem]);
    check(&["--ca", stranger.to_str().unwrap(), &format!("https://localhost:{port}/")]).expect(false, &["--ca"]);
    let named = self_signed(vec!["example.org".to_owned()]);
    let (ca, port) = (bundle(&dir, &[&named.pem]), https(&named));
    check(&["--ca", ca.to_str().unwrap(), &format!("https://localhost:{port}/")]).expect(false, &["another name"]);
}

#[test]
fn an_authority_named_by_ca_is_trusted_for_what_it_signed() {
    let dir = TempDir::new();
    let ca = authority();
    let path = bundle(&dir, &[&ca.pem()]);
    let ca_flag = ["--ca", path.to_str().unwrap()];
    let ask =
        |identity: &Identity| check(&[&ca_flag[..], &[&format!("https://localhost:{}/", https(identity))]].concat());
    ask(&issued(CertificateParams::new(names()).unwrap(), &ca)).expect(true, &["status 200"]);
    ask(&issued(CertificateParams::new(names()).unwrap(), &authority())).expect(false, &["--ca", "--insecure"]);
    ask(&issued(CertificateParams::new(vec!["example.org".to_owned()]).unwrap(), &ca)).expect(false, &["another name"]);
    let mut old = CertificateParams::new(names()).unwrap();
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    let old = issued(old, &ca);
    ask(&old).expect(false, &["expired"]);
    // Naming an expired certificate does not make it valid.
    let both = bundle(&dir, &[&ca.pem(), &old.pem]);
    let url = format!("https://localhost:{}/", https(&old));
    check(&["--ca", both.to_str().unwrap(), &url]).expect(false, &["expired"]);
    check(&["--insecure", &url]).expect(true, &["status 200"]);
}

#[test]
fn a_store_that_is_missing_or_broken_is_reported() {
    let dir = TempDir::new();
    let mine = self_signed(names());
    let url = format!("https://localhost:{}/", https(&mine));
    check(&["--insecure", &url]).expect(true, &["status 200"]);
    check(&[&url]).expect(false, &["--ca", "--insecure"]);
    // An image without a certificate store: none where the variable points, and an empty folder.
    let none = healthcheck().env("SSL_CERT_FILE", dir.path().join("none")).env("SSL_CERT_DIR", dir.path());
    said(none.arg(&url)).expect(false, &["no store of trusted certificates", "--ca"]);
    let empty = bundle(&dir, &["no certificate here\n"]);
    check(&["--ca", empty.to_str().unwrap(), &url]).expect(false, &["--ca", "no certificate"]);
    let broken = bundle(&dir, &["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"]);
    check(&["--ca", broken.to_str().unwrap(), &url]).expect(false, &["--ca"]);
    // Opening a pipe would wait for its writer, and a device has no end.
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    check(&["--ca", pipe.to_str().unwrap(), &url]).expect(false, &["--ca", "not a regular file"]);
    check(&["--ca", "/dev/zero", &url]).expect(false, &["--ca", "not a regular file"]);
    said(healthcheck().env("SSL_CERT_FILE", &pipe).arg(&url))
        .expect(false, &["SSL_CERT_FILE", "not name a regular file"]);
    check(&["--ca", "/nowhere/ca.pem", &url]).expect(false, &["--ca", "/nowhere/ca.pem", "no such file"]);
}

#[test]
fn tls_and_plain_text_are_distinguished_on_either_side() {
    let plain = Server::saying(answer(200, "", ""));
    check(&["--insecure", &format!("https://127.0.0.1:{}/", plain.port)]).expect(false, &["TLS"]);
    let port = https(&self_signed(names()));
    check(&[&format!("http://127.0.0.1:{port}/")]).expect(false, &["TLS", "https://"]);
}

#[test]
fn a_handshake_that_never_ends_is_unhealthy_within_the_timeout() {
    let timeout = Duration::from_millis(400);
    let url = hostile(|mut stream| while pace(&mut stream, Duration::from_secs(20)) {}).replace("http", "https");
    check(&["--insecure", "--timeout", "400ms", &url]).expect(false, &["timed out after 400ms", "TLS"]).within(timeout);
    let url = hostile(|mut stream| while stream.write_all(&[0x16, 3, 3, 0x40, 0]).is_ok() {}).replace("http", "https");
    check(&["--insecure", "--timeout", "400ms", &url]).expect(false, &["TLS"]).within(timeout);
    let url = hostile(drop).replace("http", "https");
    check(&["--insecure", "--timeout", "400ms", &url]).expect(false, &["TLS"]).within(timeout);
}

#[test]
fn a_redirect_to_https_of_the_same_name_is_followed() {
    let port = https(&self_signed(names()));
    let server = Server::new(move |_| answer(301, &format!("Location: https://127.0.0.1:{port}/\r\n"), ""));
    check(&["--insecure", &server.url("/")]).expect(true, &["status 200", "after a redirect to https://127.0.0.1"]);
    check(&[&server.url("/")]).expect(false, &["TLS"]);
}

/// A handshake that the server aborts: each reason with its fix, and none in the wording of a library.
#[test]
fn what_a_server_refuses_is_reported_with_its_fix() {
    let own = self_signed(names());
    let key = || PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = || ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let one = |make: &dyn Fn() -> ServerConfig| {
        let config = Arc::new(make());
        let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut tls, &mut stream);
            let _ = stream.read(&mut [0]);
            let _ = stream.flush();
        });
        format!("https://localhost:{port}/")
    };
    let h2 = one(&|| {
        let mut config =
            builder().unwrap().with_no_client_auth().with_single_cert(vec![own.certificate.clone()], key()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    });
    check(&["--insecure", &h2]).expect(false, &["does not speak http/1.1 here (ALPN)", "grpc://"]);
    let wants = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let roots = Arc::new({
            let mut roots = rustls::RootCertStore::empty();
            roots.add(own.certificate.clone()).unwrap();
            roots
        });
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.unwrap().with_client_cert_verifier(verifier.unwrap());
        builder.with_single_cert(vec![own.certificate.clone()], key()).unwrap()
    };
    for versions in [[&rustls::version::TLS13], [&rustls::version::TLS12]] {
        let url = one(&|| wants(&versions));
        check(&["--insecure", &url]).expect(false, &["requires a client certificate"]);
    }
    // As other implementations send it: an alert record, byte by byte.
    for (alert, words) in [
        (40, &["no cipher suite, curve or key type in common", "TLS 1.3, and 1.2", "tcp://"][..]),
        (71, &["no cipher suite, curve or key type in common"]),
        (70, &["no TLS version that reberth speaks", "enable 1.2"]),
        (120, &["ALPN"]),
        (116, &["client certificate"]),
        (112, &["a name (SNI)", "an address is not one"]),
        (80, &["see its log", "a name (SNI)"]),
        (22, &["see its log"]),
    ] {
        let url = hostile(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, alert]);
            let _ = stream.read(&mut [0; 4096]);
        });
        let url = url.replace("http:", "https:");
        check(&["--insecure", &url]).expect(false, words);
        if alert == 112 {
            let named = url.replace("127.0.0.1", "localhost");
            check(&["--insecure", &named]).expect(false, &["no site of this name (SNI)"]);
        }
    }
    // A server without TLS: one that answers the bytes it takes for a request, and one that waits for more.
    let url = hostile(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    check(&["--insecure", &url.replace("http:", "https:")]).expect(false, &["does not speak TLS here", "http://"]);
    let url = hostile(|mut stream| while stream.read(&mut [0; 4096]).is_ok_and(|size| size > 0) {});
    check(&["--insecure", &url.replace("http:", "https:")]).expect(false, &["timed out", "if it does not speak TLS"]);
    let url = hostile(|mut stream| drop(stream.read(&mut [0; 4096])));
    check(&["--insecure", &url.replace("http:", "https:")]).expect(false, &["closed", "if it does not speak TLS"]);
}

#[test]
fn the_rest_of_a_body_is_read_here_too() {
    let own = self_signed(names());
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.certificate.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let (told, line) = std::sync::mpsc::channel::<()>();
    let (seen, end) = std::sync::mpsc::channel();
    let line = std::sync::Mutex::new(line);
    let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut stream);
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
        line.lock().unwrap().recv().unwrap();
        stream.write_all(b"body").unwrap();
        // close_notify, and then the end.
        seen.send(stream.read(&mut [0; 16]).ok()).unwrap();
    });
    let mut running =
        healthcheck().args(["--timeout", "5s", "--insecure", &format!("https://127.0.0.1:{port}/")]).start();
    assert!(running.line().starts_with("healthy"));
    told.send(()).unwrap();
    assert_eq!(end.recv().unwrap(), Some(0));
    running.finish().expect_code(0);
}

#[test]
fn a_probe_over_tls_leaves_with_a_close_notify() {
    let (tell, ends) = std::sync::mpsc::channel();
    let mine = self_signed(names());
    for text in [
        // The rest comes in a separate record.
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_owned(),
        answer(200, "", "whole"),
        answer(503, "", "whole"),
    ] {
        let tell = tell.clone();
        let healthy = text.contains("200");
        let port = https_with(&mine, text.clone(), move |stream| {
            if text.ends_with("\r\n\r\n") {
                let _ = stream.write_all(b"rest");
            }
            // For rustls only a close_notify is an end.
            let _ = tell.send(stream.read(&mut [0]).map_err(|error| error.kind()));
        });
        check(&["--insecure", &format!("https://localhost:{port}/")]).expect(healthy, &["status "]);
        assert_eq!(ends.recv().unwrap(), Ok(0));
    }
}

/// The signature schemes that a ClientHello offers (RFC 8446, 4.1.2 and 4.2.3).
fn schemes(record: &[u8]) -> Vec<u16> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    // After the headers of record and handshake, the version and the random come three lists, and then the extensions.
    let mut rest = &record[5 + 4 + 2 + 32..];
    for width in [1, 2, 1] {
        rest = &rest[width + number(&rest[..width])..];
    }
    rest = &rest[2..];
    while number(&rest[..2]) != 13 {
        rest = &rest[4 + number(&rest[2..4])..];
    }
    let list = &rest[6..4 + number(&rest[2..4])];
    list.chunks(2).map(|scheme| number(scheme) as u16).collect()
}

/// `ring` cannot verify a P-521 key, and with `--insecure` it need not: a scheme that is not offered is not used.
#[test]
fn insecure_accepts_a_key_of_any_kind() {
    const P521: u16 = 0x0603;
    const SHA1: u16 = 0x0201;
    let (tell, told) = std::sync::mpsc::channel();
    let url = hostile(move |mut stream| {
        let mut hello = [0; 4096];
        let size = stream.read(&mut hello).unwrap();
        let _ = tell.send(schemes(&hello[..size]));
    });
    let url = url.replace("http", "https");
    let dir = TempDir::new();
    let ca = bundle(&dir, &[&self_signed(names()).pem]);
    check(&["--insecure", &url]).expect(false, &[]);
    let offered = told.recv().unwrap();
    assert!(offered.contains(&P521) && offered.contains(&SHA1), "{offered:x?}");
    check(&["--ca", ca.to_str().unwrap(), &url]).expect(false, &[]);
    let offered = told.recv().unwrap();
    assert!(offered.len() > 3 && !offered.contains(&P521) && !offered.contains(&SHA1), "{offered:x?}");
}
