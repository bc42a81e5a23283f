//! A name server that changes its mind: each name has answers that it gives in turn, to be kept for 0 seconds.

use super::network::NAME_SERVER;
use anyhow::Context as _;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// A name, and its answers: addresses and, first, a name that it is another word for.
type Entry = (&'static str, &'static [&'static str]);

const ZONE: &[Entry] = &[
    // Hosts of the Internet, as the bar has it.
    ("public.test", &["1.2.3.4"]),
    ("six.test", &["2a00:1450::4"]),
    ("two.test", &["1.2.3.4 2a00:1450::4"]),
    ("a.public.test", &["1.2.3.4"]),
    ("alias.test", &["=public.test 1.2.3.4"]),
    // Names that mean what is nobody's business.
    ("loop.test", &["127.0.0.1"]),
    ("loop-six.test", &["::1"]),
    ("ten.test", &["10.0.0.1"]),
    ("home.test", &["192.168.0.1"]),
    ("carrier.test", &["100.64.0.1"]),
    ("metadata.test", &["169.254.169.254"]),
    ("metadata.google.internal", &["169.254.169.254"]),
    ("wire.test", &["168.63.129.16"]),
    ("ula.test", &["fd00:ec2::254"]),
    ("zero.test", &["0.0.0.0"]),
    ("unspecified.test", &["::"]),
    ("mapped.test", &["::ffff:127.0.0.1"]),
    ("mapped-metadata.test", &["::ffff:169.254.169.254"]),
    ("nat64.test", &["64:ff9b::169.254.169.254"]),
    ("6to4.test", &["2002:a9fe:a9fe::1"]),
    ("inner-alias.test", &["=loop.test 127.0.0.1"]),
    ("all-inside.test", &["127.0.0.1 10.0.0.1 ::1 fd00:ec2::254"]),
    ("inner.public.test", &["10.0.0.1"]),
    ("127.0.0.1.public.test", &["127.0.0.1"]),
    // Of both kinds at once: the address that may be reached is.
    ("inside-first.test", &["127.0.0.1 1.2.3.4"]),
    ("inside-last.test", &["1.2.3.4 10.0.0.1"]),
    ("six-inside.test", &["1.2.3.4 ::1"]),
    ("four-inside.test", &["127.0.0.1 2a00:1450::4"]),
    // One that nobody answers at, and one inside.
    ("dead-first.test", &["1.2.3.5 127.0.0.1"]),
    // One after the other.
    ("rebind.test", &["1.2.3.4", "127.0.0.1"]),
    ("rebind-first.test", &["127.0.0.1", "1.2.3.4"]),
    ("rebind-six.test", &["2a00:1450::4", "::1"]),
    (
        "rebind-metadata.test",
        &["1.2.3.4", "169.254.169.254", "169.254.169.254"],
    ),
];

/// Answers for as long as it is there.
pub(super) struct Names {
    _server: JoinSet<()>,
}

/// How often each name was asked for, by type.
type Asked = HashMap<(String, bool), usize>;

impl Names {
    pub(super) async fn serve() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((NAME_SERVER, 53)).await;
        let socket = socket.context("listening for questions about names")?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut asked, mut question) = (Asked::new(), [0; 4096]);
            while let Ok((bytes, from)) = socket.recv_from(&mut question).await {
                // What is not a question is not answered.
                if let Some(reply) = answer(&question[..bytes], &mut asked) {
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Ok(Self { _server: server })
    }
}

fn answer(question: &[u8], asked: &mut Asked) -> Option<Vec<u8>> {
    let packet = Packet::parse(question).ok()?;
    let of = packet.questions.first()?.clone();
    let name = of.qname.to_string().to_ascii_lowercase();
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    reply.questions.push(of.clone());
    match ZONE.iter().find(|(known, _)| *known == name) {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some((_, answers)) => {
            let six = of.qtype == QTYPE::TYPE(TYPE::AAAA);
            let turn = asked.entry((name.clone(), six)).or_default();
            let now = answers[*turn % answers.len()];
            *turn += 1;
            let mut owner = of.qname.clone();
            for record in now.split(' ') {
                if let Some(other) = record.strip_prefix('=') {
                    let other = Name::new(other).ok()?;
                    let data = RData::CNAME(CNAME(other.clone()));
                    reply
                        .answers
                        .push(ResourceRecord::new(owner, CLASS::IN, 0, data));
                    owner = other;
                    continue;
                }
                let data = match record.parse().ok()? {
                    IpAddr::V4(v4) if !six => RData::A(A::from(v4)),
                    IpAddr::V6(v6) if six => RData::AAAA(AAAA::from(v6)),
                    _ => continue,
                };
                let record = ResourceRecord::new(owner.clone(), CLASS::IN, 0, data);
                reply.answers.push(record);
            }
        }
    }
    reply.build_bytes_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::Question;

    fn ask(name: &str, six: bool, asked: &mut Asked) -> (RCODE, Vec<String>) {
        let kind = if six { TYPE::AAAA } else { TYPE::A };
        let mut packet = Packet::new_query(7);
        let name = Name::new_unchecked(name);
        packet
            .questions
            .push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        let reply = answer(&packet.build_bytes_vec().unwrap(), asked).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(reply.id(), 7);
        let answers = reply.answers.iter().map(|record| match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
            RData::CNAME(name) => format!("{} is {}", record.name, name.0),
            other => panic!("{other:?}"),
        });
        (reply.rcode(), answers.collect())
    }

    #[test]
    fn a_name_changes_its_mind_each_time_it_is_asked_for() {
        let mut asked = Asked::new();
        for address in ["1.2.3.4", "127.0.0.1", "1.2.3.4"] {
            let answers = ask("Rebind.test", false, &mut asked).1;
            assert_eq!(answers, [address]);
        }
        assert!(ask("rebind.test", true, &mut asked).1.is_empty());
        let both = ask("two.test", true, &mut asked).1;
        assert_eq!(both, ["2a00:1450::4"]);
        let alias = ask("alias.test", false, &mut asked).1;
        assert_eq!(alias, ["alias.test is public.test", "1.2.3.4"]);
        assert_eq!(ask("none.test", false, &mut asked).0, RCODE::NameError);
        assert_eq!(answer(b"no question", &mut asked), None);
    }

    #[test]
    fn all_answers_are_addresses_or_other_words() {
        for (name, answers) in ZONE {
            for record in answers.iter().flat_map(|answer| answer.split(' ')) {
                let fine = record.starts_with('=') || record.parse::<IpAddr>().is_ok();
                assert!(fine, "{name}: {record}");
            }
        }
    }
}
