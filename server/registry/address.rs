//! Which addresses may be contacted. A reference, a redirect and a token realm are words of strangers: without
//! this rule they would make the server ask what only the server can reach (SSRF).
//!
//! The rule is applied to the address that is connected to, after DNS, on every hop: a name that resolves to
//! something harmless when it is checked and to something else when it is used gains nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::UpstreamKind;

/// Who may be contacted. Link-local, multicast, unspecified and known metadata addresses never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressPolicy {
    /// Addresses of the public Internet.
    Public,
    /// These, this machine and private networks: right for a server that nobody can use who could not reach as much
    /// without it, or whose operator says so.
    Private,
}

/// What an address is to the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    Private,
    Never,
}

/// The error a resolver gives when every address of a name is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused(pub IpAddr);

impl AddressPolicy {
    /// Whether `address` may be contacted.
    pub fn allows(self, address: IpAddr) -> bool {
        match (reach(address), self) {
            (Reach::Public, AddressPolicy::Public | AddressPolicy::Private) => true,
            (Reach::Private, AddressPolicy::Private) => true,
            (Reach::Private, AddressPolicy::Public) | (Reach::Never, _) => false,
        }
    }

    /// The policy for where the peer at `peer` sends us: one on the Internet never sends us to a private
    /// address, or any registry could make us knock on the doors of the network we run in.
    pub(super) fn narrowed_by(self, peer: Option<SocketAddr>) -> AddressPolicy {
        match peer.map(|peer| reach(peer.ip())) {
            Some(Reach::Private) => self,
            Some(Reach::Public | Reach::Never) | None => AddressPolicy::Public,
        }
    }

    /// Those of the addresses of a name that may be contacted.
    fn choose(self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, Refused> {
        let allowed: Vec<SocketAddr> =
            found.iter().copied().filter(|address| self.allows(address.ip())).collect();
        match (allowed.is_empty(), found.first()) {
            (true, Some(refused)) => Err(Refused(refused.ip())),
            (true, None) | (false, _) => Ok(allowed),
        }
    }

    /// Checks a literal address, which no resolver ever sees. The URL parser has already turned decimal, octal
    /// and hexadecimal spellings into addresses.
    pub(super) fn check_literal(self, url: &Url) -> Result<(), Refused> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.allows(address) { Ok(()) } else { Err(Refused(address)) }
    }
}

/// Whether `url` names this machine itself: where plain HTTP is no risk.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(inner) => reach_v4(inner),
            None => reach_v6(address),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    /// Metadata services that live outside the link-local range.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        _ if METADATA.contains(&address) => Reach::Never,
        // "This network", link-local, multicast, reserved and broadcast.
        (0, _, _) | (169, 254, _) | (224..=255, _, _) => Reach::Never,
        (127, _, _) | (10, _, _) | (172, 16..=31, _) | (192, 168, _) => Reach::Private,
        // Behind a carrier's NAT, protocol assignments, benchmarks, documentation: no one's public address.
        (100, 64..=127, _) | (192, 0, 0 | 2) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => {
            Reach::Private
        }
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    /// Metadata services of providers, which have chosen addresses of private networks for them.
    const METADATA: [Ipv6Addr; 4] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
        Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    ];
    let [first, second, ..] = address.segments();
    match (first, second) {
        _ if METADATA.contains(&address) || address.is_unspecified() => Reach::Never,
        _ if address.is_loopback() => Reach::Private,
        // Link-local, the old site-local, multicast.
        (0xfe80..=0xffff, _) => Reach::Never,
        (0xfc00..=0xfdff, _) => Reach::Private,
        // Teredo: a tunnel to an IPv4 address that is hidden in it, and judged by nobody.
        (0x2001, 0) => Reach::Never,
        // Protocol assignments, benchmarks, documentation: no one's public address.
        (0x2001, 1..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => Reach::Private,
        // Global unicast. What is left is not assigned to anybody.
        (0x2000..=0x3fff, _) => Reach::Public,
        _ => Reach::Never,
    }
}

/// The IPv4 address that an IPv6 address stands for, in any of the forms that translators take.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Mapped, translated, and the old compatible form.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(join(high, low)),
        // NAT64 with the well-known prefix. Where the address stands behind the one for local use (RFC 8215) is up to each
        // network (RFC 6052, section 2.2): it is like any other that is not assigned.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// DNS that gives only addresses the policy allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardedResolver(pub AddressPolicy);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0;
        Box::pin(async move {
            // These very addresses are connected to: there is no second lookup that could find others.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(policy.choose(&found)?.into_iter()) as Addrs)
        })
    }
}

impl Refused {
    /// Whether anything that an operator can set would allow it.
    pub(super) fn kind(&self) -> UpstreamKind {
        match reach(self.0) {
            Reach::Never => UpstreamKind::Forbidden,
            Reach::Private | Reach::Public => UpstreamKind::PrivateAddress,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match reach(self.0) {
            Reach::Never => write!(
                f,
                "the address {} is never contacted: it is link-local, multicast, nobody's, or a metadata service's",
                self.0
            ),
            Reach::Private | Reach::Public => {
                write!(f, "the address {} is of a private network, and may not be contacted", self.0)
            }
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(policy: AddressPolicy, url: &str) -> bool {
        policy.check_literal(&Url::parse(url).expect(url)).is_ok()
    }

    #[test]
    fn metadata_and_link_local_addresses_are_never_contacted_in_any_spelling() {
        for hostile in [
            "http://169.254.169.254/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://[fe80::1]/",
            "http://[febf::1]/",
            "http://[fd00:ec2::254]/",
            "http://[fd20:ce::254]/",
            "http://[fd00:c1::a9fe:a9fe]/",
            "http://[fd00:42::42]/",
            "http://192.0.0.192/",
            // Behind a prefix of 48, 56 or 64 bits the address stands elsewhere than in the end.
            "http://[64:ff9b:1:a9fe:a9:fe00::]/",
            "http://[64:ff9b:1:a9:fe:a9fe::]/",
            "http://[64:ff9b:1:0:a9:fea9:fe00:0]/",
            "http://[64:ff9b:1::a9fe:a9fe]/",
            "http://[64:ff9b:1::101:101]/",
            "http://[64:ff9b:0:1::101:101]/",
            "http://[2001:0:a9fe:a9fe::1]/",
            "http://[2001::1]/",
            "http://[ff02::1]/",
            "http://[::]/",
            "http://0.0.0.0/",
            "http://100.100.100.200/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
        ] {
            assert!(!allowed(AddressPolicy::Private, hostile), "{hostile}");
        }
    }

    #[test]
    fn this_machine_and_private_networks_are_contacted_only_when_allowed() {
        for private in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://10.0.0.1/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://[::1]/",
            "http://[fd12::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://192.0.0.1/",
            "http://[2001:2::1]/",
            "http://[2001:10::1]/",
            "http://[2001:db8::1]/",
            "http://[3fff:fff::1]/",
        ] {
            assert!(allowed(AddressPolicy::Private, private), "{private}");
            assert!(!allowed(AddressPolicy::Public, private), "{private}");
        }
        for public in [
            "http://1.1.1.1/",
            "http://172.32.0.1/",
            "http://[2606:4700::1]/",
            "http://[2001:200::1]/",
            "http://[2001:4860:4860::8888]/",
            "http://[64:ff9b::101:101]/",
            "http://example.com/",
        ] {
            assert!(allowed(AddressPolicy::Public, public), "{public}");
        }
    }

    #[test]
    fn what_no_setting_allows_is_told_apart_from_what_one_does() {
        let refused = |address: &str| Refused(address.parse().expect(address));
        for (address, kind, words) in [
            ("169.254.169.254", UpstreamKind::Forbidden, "is never contacted"),
            ("fe80::1", UpstreamKind::Forbidden, "is never contacted"),
            ("10.0.0.1", UpstreamKind::PrivateAddress, "is of a private network"),
            ("::1", UpstreamKind::PrivateAddress, "is of a private network"),
        ] {
            let told = refused(address);
            assert_eq!(told.kind(), kind, "{address}");
            assert!(told.to_string().contains(words), "{told}");
        }
    }

    #[test]
    fn a_peer_on_the_internet_never_sends_us_to_a_private_address() {
        let narrowed = |peer: &str| AddressPolicy::Private.narrowed_by(Some(peer.parse().expect(peer)));
        assert_eq!(narrowed("1.1.1.1:443"), AddressPolicy::Public);
        assert_eq!(narrowed("127.0.0.1:5000"), AddressPolicy::Private);
        assert_eq!(AddressPolicy::Private.narrowed_by(None), AddressPolicy::Public);
    }

    #[test]
    fn of_the_addresses_of_a_name_only_those_are_used_that_may_be() {
        let all = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().expect(text)).collect()
        };
        let mixed = all(&["169.254.169.254:0", "10.0.0.1:0", "1.1.1.1:0", "[fd20:ce::254]:0"]);
        assert_eq!(AddressPolicy::Public.choose(&mixed), Ok(all(&["1.1.1.1:0"])));
        assert_eq!(AddressPolicy::Private.choose(&mixed), Ok(all(&["10.0.0.1:0", "1.1.1.1:0"])));
        assert_eq!(AddressPolicy::Public.choose(&mixed[..2]), Err(Refused(mixed[0].ip())));
        assert_eq!(AddressPolicy::Public.choose(&[]), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_the_addresses_it_has() {
        let name = || "localhost".parse::<Name>().expect("a name");
        let refused = GuardedResolver(AddressPolicy::Public).resolve(name()).await.err().expect("refused");
        assert!(refused.downcast_ref::<Refused>().is_some());
        assert!(GuardedResolver(AddressPolicy::Private).resolve(name()).await.is_ok());
    }
}
