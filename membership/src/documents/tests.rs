//! Documents as cells: merged in any order, the newest wins.

use super::*;

fn claims(vips: std::ops::Range<u8>, epoch: u64) -> BTreeMap<IpAddr, Claim> {
    vips.map(|vip| (IpAddr::from([10, 0, 0, vip]), Claim { epoch, since_ms: 0, standby: 0 })).collect()
}

fn pair() -> (Documents, Documents) {
    (Documents::new("a".parse().unwrap(), 1), Documents::new("b".parse().unwrap(), 1))
}

fn copy_of<'a>(reader: &'a Documents, writer: &Documents) -> &'a NodeDocument {
    reader.get(writer.own(), 0).unwrap()
}

#[test]
fn a_removed_claim_disappears_from_the_copies() {
    let (mut writer, mut reader) = pair();
    for claims in [claims(0..9, 1), claims(3..5, 1), BTreeMap::new()] {
        for batch in writer.write_claims(&claims).0 {
            assert_eq!(reader.apply(batch), Applied::News { gap: false });
        }
        assert_eq!(copy_of(&reader, &writer).claims, claims);
    }
    assert!(writer.write_claims(&BTreeMap::new()).0.is_empty(), "nothing new, nothing sent");
}

#[test]
fn what_a_flood_lost_the_next_digest_repairs() {
    let (mut writer, mut reader) = pair();
    writer.write_claims(&claims(0..200, 1));
    let later = writer.write_claims(&claims(0..201, 1)).0;
    for batch in later {
        assert_eq!(reader.apply(batch), Applied::News { gap: true });
    }
    assert!(!reader.satisfies(&writer.page(0, |_| true)));
    let comparison = writer.compare(&reader.page(0, |id| id == writer.own()), |id| id == writer.own());
    for batch in comparison.repairs {
        reader.apply(batch);
    }
    assert!(reader.satisfies(&writer.page(0, |_| true)));
    assert_eq!(copy_of(&reader, &writer).claims.len(), 201);
}

#[test]
fn an_older_life_changes_nothing_and_a_newer_one_replaces() {
    let (mut writer, mut reader) = pair();
    let old = writer.write_claims(&claims(0..3, 1)).0;
    for batch in &old {
        reader.apply(batch.clone());
    }
    let mut reborn = Documents::new("a".parse().unwrap(), 2);
    for batch in reborn.write_claims(&claims(7..8, 5)).0 {
        reader.apply(batch);
    }
    for batch in old {
        assert_eq!(reader.apply(batch), Applied::Known);
    }
    assert_eq!(copy_of(&reader, &writer).claims, claims(7..8, 5));
}

#[test]
fn owners_are_bounded() {
    let (_, mut reader) = pair();
    let mut full = false;
    for node in 0..=MAX_OWNERS {
        let mut writer = Documents::new(format!("n{node}").parse().unwrap(), 1);
        for batch in writer.write_claims(&claims(0..1, 1)).0 {
            full = reader.apply(batch) == Applied::NoRoom;
        }
    }
    assert!(full);
    reader.retain(|_| false);
    assert_eq!(reader.copies.len(), 1, "its own stays");
}

#[test]
fn a_newer_life_is_known_by_what_the_former_said_of_the_machine_and_nothing_else() {
    let (mut writer, mut reader) = pair();
    let uplink = crate::Interface { name: "eth0".into(), mac: [2; 6], prefixes: vec![] };
    let facts = Facts { interfaces: vec![uplink.clone()], forwarding: true, draining: true, ..Facts::default() };
    for batch in writer.write_facts(&facts).0.into_iter().chain(writer.write_claims(&claims(0..3, 1)).0) {
        reader.apply(batch);
    }
    assert_eq!(reader.former(writer.own(), 1), None, "this is its document");
    let former = reader.former(writer.own(), 2).unwrap();
    assert_eq!(former.facts.interfaces, [uplink]);
    assert!(former.facts.forwarding && former.facts.listening && !former.facts.draining);
    assert!(former.claims.is_empty(), "the new agent owns nothing yet");
}
