//! Tables of targets and their text forms.

use super::*;

#[test]
fn targets() {
    let tcp = |host: &str, port| Target::TcpAt(host.into(), port);
    let unix = |socket: &str, path: Option<&str>| Target::Unix(socket.into(), path.map(Into::into));
    let host = |host: &str, port| Peer::Host(host.into(), port);
    let socket = |socket: &str| Peer::Socket(socket.into());
    let grpc = |tls: bool, peer: Peer, service: &str| Target::GrpcAt(tls, peer, service.into());
    for (text, want) in [
        ("/", Target::Path("/".into())),
        ("/healthz?full=1", Target::Path("/healthz?full=1".into())),
        ("tcp", Target::Tcp),
        ("tcp://db:5432", tcp("db", 5432)),
        ("tcp://[::1]:80", tcp("::1", 80)),
        ("tcp://my_db.svc:80", tcp("my_db.svc", 80)),
        ("unix:/run/app.sock", unix("/run/app.sock", None)),
        ("unix:/run/app.sock:/health?a=b:/c", unix("/run/app.sock", Some("/health?a=b:/c"))),
        ("grpc", Target::Grpc(String::new())),
        ("grpc:my.pkg.Svc", Target::Grpc("my.pkg.Svc".into())),
        ("grpc:a:1/b?c#d", Target::Grpc("a:1/b?c#d".into())),
        ("grpc://db:5432", grpc(false, host("db", 5432), "")),
        ("grpc://[::1]:80/a.B/c", grpc(false, host("::1", 80), "a.B/c")),
        ("grpcs://db:443/a.B", grpc(true, host("db", 443), "a.B")),
        ("grpc:unix:/run/a.sock", grpc(false, socket("/run/a.sock"), "")),
        ("grpc:unix:/run/a.sock:/a.B/c", grpc(false, socket("/run/a.sock"), "a.B/c")),
        ("grpc:unix:@a", grpc(false, socket("@a"), "")),
        ("tcp://[fe80::1%eth0]:80", tcp("fe80::1%eth0", 80)),
        ("tcp://[fe80::1%2525]:80", tcp("fe80::1%25", 80)),
        ("unix:@app", unix("@app", None)),
        ("unix:@a/b:/health", unix("@a/b", Some("/health"))),
        ("fcgi://php:9000/ping?json", Target::Fcgi(host("php", 9000), "/ping?json".into())),
        ("fcgi:unix:/run/php.sock:/ping", Target::Fcgi(socket("/run/php.sock"), "/ping".into())),
        ("redis://db:6379", Target::Database(Database::Redis, host("db", 6379))),
        ("redis:unix:/run/redis.sock", Target::Database(Database::Redis, socket("/run/redis.sock"))),
        ("postgres://[::1]:5432", Target::Database(Database::Postgres, host("::1", 5432))),
        ("mysql:unix:@my", Target::Database(Database::Mysql, socket("@my"))),
        ("file:/run/a b,c:d", Target::File("/run/a b,c:d".into())),
        ("dns:db.example.org.", Target::Dns("db.example.org.".into())),
        ("dns:::1", Target::Dns("::1".into())),
    ] {
        if cfg!(feature = "tls") || !text.starts_with("grpcs") {
            assert_eq!(text.parse(), Ok(want.clone()), "{text}");
        }
        assert_eq!(want.to_string(), text);
    }
    assert_eq!("TCP".parse(), Ok(Target::Tcp));
    assert_eq!("Grpc".parse(), Ok(Target::Grpc(String::new())));
    for (text, long) in [
        ("GRPC://h:1/", "grpc://h:1"),
        ("grpc:8080", "grpc://localhost:8080"),
        ("grpc:8080/a.B", "grpc://localhost:8080/a.B"),
        ("tcp:8080", "tcp://localhost:8080"),
        ("tcp://[fe80::1%25eth0]:80", "tcp://[fe80::1%eth0]:80"),
        (":8080/path?a", "http://localhost:8080/path?a"),
        (":8080", "http://localhost:8080"),
        ("redis:6380", "redis://localhost:6380"),
        ("Redis://h", "redis://h:6379"),
        ("postgresql://h/", "postgres://h:5432"),
        ("mysql://h", "mysql://h:3306"),
        ("mysql:Unix:/a", "mysql:unix:/a"),
        ("FILE:///run/ready", "file:/run/ready"),
        ("dns://db", "dns:db"),
        ("fcgi:9000", "fcgi://localhost:9000/"),
        ("fcgi:9000/ping#x", "fcgi://localhost:9000/ping"),
        ("fcgi:unix:/run/fpm.sock", "fcgi:unix:/run/fpm.sock:/"),
        ("fcgi:unix:/run/fpm.sock/a/b.php", "fcgi:unix:/run/fpm.sock:/a/b.php"),
        ("fcgi:unix:/run/fpm.socket/ping", "fcgi:unix:/run/fpm.socket:/ping"),
        ("fcgi:unix:/run/fpm/ping", "fcgi:unix:/run/fpm:/ping"),
        ("fcgi:unix:/run/php:/a/b", "fcgi:unix:/run/php:/a/b"),
        ("fcgi:unix:/fpm", "fcgi:unix:/fpm:/"),
        ("fcgi:unix:@fpm/ping", "fcgi:unix:@fpm:/ping"),
    ] {
        let got = text.parse::<Target>();
        assert_eq!(got.map(|got| got.to_string()).as_deref(), Ok(long), "{text}");
    }
    assert_eq!("/a#b".parse(), Ok(Target::Path("/a".into())));
    assert_eq!("unix:///run/a.sock".parse(), Ok(unix("///run/a.sock", None)));
    for url in ["http://localhost", "http://127.0.0.1:8080/x?y", "HTTP://[::1]:80/", "http://h?x", "http://my_app:1/"] {
        assert_eq!(url.parse(), Ok(Target::Url(url.into())), "{url}");
    }
    for (bad, reason) in [
        ("", "no scheme"),
        ("8080", "did you mean http://127.0.0.1:8080?"),
        ("localhost:8080/x", "did you mean http://localhost:8080/x?"),
        ("smtp://h:1", "no scheme that reberth knows"),
        ("grpc:", "grpc alone"),
        ("grpc:/a.B", "without a /"),
        ("grpc:a B", "printable"),
        ("grpc://h", "needs a port"),
        ("grpc://h/a.B", "needs a port"),
        ("grpc://:80", "host"),
        ("grpc://::1:80", "brackets"),
        ("grpc://h:0", "port"),
        ("grpc://h:1/ä", "printable"),
        ("grpc:unix:", "absolute path"),
        ("grpc:99999", "port"),
        ("grpcs", "grpcs needs an address"),
        ("tcp:unix:/a", "unix:/socket"),
        ("tcp:0", "port"),
        ("file:", "an absolute path"),
        ("file:run/ready", "an absolute path"),
        ("dns:", "a host name and nothing else"),
        ("dns:db:5432", "a host name and nothing else"),
        ("dns:db/x", "a host name and nothing else"),
        ("tcp:", "tcp needs an address"),
        (":x", "port"),
        (":0/", "port"),
        (":8080x", "port"),
        ("unix:@", "abstract"),
        ("tcp://[fe80::1%]:80", "interface"),
        ("tcp://[fe80::1%a/b]:80", "brackets"),
        ("tcp://[fe80::1%0123456789abcdef]:80", "at most 15"),
        ("tcp://fe80%eth0:80", "host"),
        ("redis", "redis needs an address: redis://host"),
        ("redis:", "redis needs an address"),
        ("redis://h/0", "no path or database"),
        ("redis://h:1?x", "port"),
        ("redis:unix:run/a", "absolute path"),
        ("redis:unix:/a:/b", "no path or database"),
        ("postgres://h/app", "no path or database"),
        ("mysql://u@h", "no credentials"),
        ("tcp://u@h:1", "no credentials"),
        ("grpc://u@h:1", "no credentials"),
        ("fcgi://u@h:1/", "no credentials"),
        ("fcgi://h/ping", "needs a port"),
        ("fcgi:/ping", "fcgi needs an address"),
        ("fcgi://h:1/a b", "printable"),
        ("rediss://h", "no scheme that reberth knows"),
        ("http://", "host"),
        ("http:///x", "host"),
        ("http://:80/", "host"),
        ("http://h:0/", "port"),
        ("http://h:/", "port"),
        ("http://h:65536/", "port"),
        ("http://::1/", "brackets"),
        ("http://[::1/", "host"),
        ("http://[x]/", "IPv6"),
        ("http://[::1]x/", ":port"),
        ("http://u:p@h/", "Authorization"),
        ("http://h/a b", "printable"),
        ("http://hö/", "host"),
        ("/a b", "printable"),
        ("/ä", "%C3%A4"),
        ("/a\r\nX: y", "printable"),
        ("tcp:80x", "tcp needs an address"),
        ("tcp://h", "needs a port"),
        ("tcp://h:80/x", "port"),
        ("unix:", "absolute"),
        ("unix:run/x", "absolute"),
        ("unix::/x", "absolute"),
        ("unix:/a:/b c", "printable"),
    ] {
        let got = bad.parse::<Target>();
        assert!(got.as_ref().is_err_and(|got| got.contains(reason) && got.contains("a target is")), "{bad}: {got:?}");
    }
    if cfg!(feature = "tls") {
        assert!("grpcs:unix:/a".parse::<Target>().is_err_and(|got| got.contains("without TLS: use grpc:unix:")));
    }
    let long = format!("unix:/{}", "x".repeat(107));
    assert!(long.parse::<Target>().is_err_and(|got| got.contains("107")));
    assert!(format!("grpc:{}", "x".repeat(1025)).parse::<Target>().is_err_and(|got| got.contains("1024")));
}

#[test]
fn https_needs_the_feature() {
    let got = "https://example.org/".parse::<Target>();
    if cfg!(feature = "tls") {
        assert_eq!(got, Ok(Target::Url("https://example.org/".into())));
    } else {
        assert!(got.is_err_and(|got| got.contains("without TLS")));
    }
}
