//! What is tried. Pure.

/// A way that might lead inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) kind: Kind,
    /// Hosts that the function asks to be granted, separated by commas.
    pub(super) grant: String,
    pub(super) url: String,
    /// How often it is gone: names change their minds.
    pub(super) calls: usize,
}

/// What kind of way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Address,
    Odd,
    Name,
    Below,
    Changing,
    Trick,
    Redirect,
    Elsewhere,
    Secure,
    Own,
}

impl Kind {
    /// Those that lead inside where the operator lets them, some of each at least. Odd forms and tricks are mostly no URLs.
    pub(super) const OPEN: [Self; 8] = [
        Self::Address,
        Self::Name,
        Self::Below,
        Self::Changing,
        Self::Redirect,
        Self::Elsewhere,
        Self::Secure,
        Self::Own,
    ];
}

/// A host that is allowed and must be reached.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) grant: &'static str,
    pub(super) url: &'static str,
}

pub(super) const ALLOWED: &[Allowed] = &[
    Allowed {
        grant: "public.test",
        url: "http://public.test/",
    },
    Allowed {
        grant: "public.test",
        url: "http://PUBLIC.test./",
    },
    Allowed {
        grant: "public.test:8080",
        url: "http://public.test:8080/",
    },
    Allowed {
        grant: "*.public.test",
        url: "http://a.public.test/",
    },
    Allowed {
        grant: "six.test",
        url: "http://six.test/",
    },
    Allowed {
        grant: "two.test",
        url: "http://two.test/",
    },
    Allowed {
        grant: "alias.test",
        url: "http://alias.test/",
    },
    Allowed {
        grant: "1.2.3.4",
        url: "http://1.2.3.4/",
    },
    Allowed {
        grant: "[2a00:1450::4]",
        url: "http://[2a00:1450::4]/",
    },
    // What may be reached of a name that means both.
    Allowed {
        grant: "inside-first.test",
        url: "http://inside-first.test/",
    },
    Allowed {
        grant: "inside-last.test",
        url: "http://inside-last.test/",
    },
    Allowed {
        grant: "six-inside.test",
        url: "http://six-inside.test/",
    },
    Allowed {
        grant: "four-inside.test",
        url: "http://four-inside.test/",
    },
];

/// Addresses inside, as they are written.
const ADDRESSES: &[&str] = &[
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[100::1]",
    "[2001::1]",
    "[2001:db8::1]",
    "[2002:a9fe:a9fe::1]",
    "[3fff::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fec0::1]",
];

/// Hosts that some resolvers read as an address, or that clients read otherwise than whoever checks.
const ODD: &[&str] = &[
    "0",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.00.0.1",
    "127.0.0.1.",
    "127.0.0.1%00.public.test",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::127.0.0.1]",
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1]",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "localhost",
    "localhost.",
    "LocalHost",
    "intranet",
];

/// Names that mean something inside. All are answered by the bar's name server.
const NAMES: &[&str] = &[
    "loop.test",
    "loop.test.",
    "loop-six.test",
    "ten.test",
    "home.test",
    "carrier.test",
    "metadata.test",
    "metadata.google.internal",
    "wire.test",
    "ula.test",
    "zero.test",
    "unspecified.test",
    "mapped.test",
    "mapped-metadata.test",
    "nat64.test",
    "6to4.test",
    "inner-alias.test",
    "all-inside.test",
    "dead-first.test",
];

/// Below a domain that is granted as a whole.
const BELOW: &[&str] = &["inner.public.test", "127.0.0.1.public.test"];

/// Names that mean something inside every other time.
const CHANGING: &[&str] = &[
    "rebind.test",
    "rebind-first.test",
    "rebind-six.test",
    "rebind-metadata.test",
];

/// URLs that are read in more than one way.
const TRICKS: &[&str] = &[
    "http://public.test@127.0.0.1/",
    "http://public.test:80@127.0.0.1/",
    "http://public.test%40127.0.0.1/",
    "http://127.0.0.1#@public.test/",
    "http://127.0.0.1%23@public.test/",
    "http://127.0.0.1\\@public.test/",
    "http://127.0.0.1 public.test/",
    "http://127.0.0.1\t.public.test/",
    "http://127.0.0.1\r\nhost: public.test/",
    "http:127.0.0.1",
    "//127.0.0.1/",
    "http:///127.0.0.1/",
    "http://[127.0.0.1]/",
    "http://127.0.0.1:80:80/",
    "http://127.0.0.1:080/",
    "http://127.0.0.1:65616/",
    "HTTP://127.0.0.1/",
    "ws://127.0.0.1/",
    "gopher://127.0.0.1/",
    "file:///etc/passwd",
    "unix:/var/run/docker.sock",
];

/// Where servers on the Internet send whoever asks them.
const REDIRECTED: &[&str] = &[
    "127.0.0.1",
    "169.254.169.254",
    "[::1]",
    "[::ffff:10.0.0.1]",
    "loop.test",
    "metadata.test",
];

/// All of them. The node that is tried listens on these ports of loopback.
pub(super) fn ways(functions: u16, admin: u16) -> Vec<Way> {
    let way = |kind, grant: &str, url: &str, calls| Way {
        kind,
        grant: grant.to_owned(),
        url: url.to_owned(),
        calls,
    };
    let to = |kind, host: &str| {
        let grant = host.trim_end_matches('.');
        way(kind, grant, &format!("http://{host}/"), 1)
    };
    let redirected = |host: &str| {
        let url = format!("http://public.test/go?http://{host}/");
        way(Kind::Redirect, &format!("public.test,{host}"), &url, 1)
    };
    let own = |host: &str, port: u16| {
        let host = format!("{host}:{port}");
        way(Kind::Own, &host, &format!("http://{host}/healthz"), 1)
    };
    let mut ways = Vec::new();
    // Where pages are, and elsewhere.
    let elsewhere = ["127.0.0.1:8080", "[::1]:8080", "loop.test:8080"];
    for (kind, hosts) in [
        (Kind::Address, ADDRESSES),
        (Kind::Odd, ODD),
        (Kind::Name, NAMES),
        (Kind::Elsewhere, &elsewhere),
    ] {
        ways.extend(hosts.iter().map(|host| to(kind, host)));
    }
    for host in BELOW {
        ways.push(way(
            Kind::Below,
            "*.public.test",
            &format!("http://{host}/"),
            1,
        ));
    }
    for host in CHANGING {
        ways.push(way(Kind::Changing, host, &format!("http://{host}/"), 12));
    }
    for url in TRICKS {
        ways.push(way(Kind::Trick, "127.0.0.1,public.test", url, 1));
    }
    ways.extend(REDIRECTED.iter().map(|host| redirected(host)));
    // With TLS, whose first bytes are bytes.
    for host in ["127.0.0.1", "loop.test", "169.254.169.254"] {
        ways.push(way(Kind::Secure, host, &format!("https://{host}/"), 1));
    }
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "loop.test"] {
        ways.extend([own(host, functions), own(host, admin)]);
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_way_is_another() {
        let ways = ways(1, 2);
        let urls: HashSet<&str> = ways.iter().map(|way| &*way.url).collect();
        assert_eq!(urls.len(), ways.len());
        assert!(ways.len() > 100, "{}", ways.len());
    }
}
