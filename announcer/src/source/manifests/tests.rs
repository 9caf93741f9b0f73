//! Tests of the folder as a source; what its contents mean is tested in `model`.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use super::*;
use crate::model::{ServiceName, Severity};

const POOL: &str = "\
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.77.0.100-10.77.0.120]}
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: all}
";

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  annotations:
    crier.io/loadBalancerIPs: {ip}
    crier.io/backends: 10.1.1.2:8080@n1
spec:
  type: LoadBalancer
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pool.yaml"), POOL).unwrap();
    fs::write(folder.path().join("web.yaml"), service("web", "10.77.0.100")).unwrap();
    folder
}

fn vips(snapshot: &Snapshot) -> Vec<String> {
    let line = |(name, service): (&ServiceName, &crate::model::Service)| {
        let vips: Vec<_> = service.vips.iter().map(|vip| vip.address.to_string()).collect();
        format!("{name} {}", vips.join(" "))
    };
    snapshot.desired.services.iter().map(line).collect()
}

fn texts(snapshot: &Snapshot) -> Vec<String> {
    snapshot.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_folder_becomes_what_is_desired() {
    let folder = folder();
    let snapshot = read_once(folder.path());
    assert_eq!(texts(&snapshot), Vec::<String>::new());
    assert_eq!(vips(&snapshot), ["default/web 10.77.0.100"]);
    assert!(snapshot.connected);
    assert_eq!(snapshot.pools["lan"].used, 1);
    assert_eq!(snapshot.pools["lan"].addresses, 21);
    let web = snapshot.desired.services.values().next().unwrap();
    assert_eq!(web.vips[0].advertise.len(), 1);
    assert_eq!(web.ports[0].backends[0].port, 8080);
}

#[test]
fn a_file_broken_half_way_through_an_edit_keeps_its_last_good_content() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    let before = reader.read();
    fs::write(folder.path().join("web.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: we").unwrap();
    let after = reader.read();
    assert_eq!(after.desired, before.desired);
    assert_eq!(after.problems.len(), 1, "{:?}", texts(&after));
    assert!(
        texts(&after)[0].starts_with("web.yaml:4 (document 1): cannot be read: did not find"),
        "{:?}",
        texts(&after)
    );
    assert!(texts(&after)[0].ends_with("the last good version is served"), "{:?}", texts(&after));
    fs::write(folder.path().join("web.yaml"), service("web", "10.77.0.101")).unwrap();
    let healed = reader.read();
    assert_eq!((vips(&healed), texts(&healed)), (vec!["default/web 10.77.0.101".to_owned()], vec![]));
}

#[test]
fn an_object_with_a_mistake_keeps_its_last_good_version_and_disturbs_no_other() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    reader.read();
    for (mistake, said) in [
        (service("web", "10.77.0.100").replace("ports:", "prots:"), "spec.prots: unknown field"),
        (service("web", "10.9.9.9"), "no IPAddressPool contains 10.9.9.9"),
    ] {
        let text = format!("{mistake}---\n{}", service("api", "10.77.0.102"));
        fs::write(folder.path().join("web.yaml"), text).unwrap();
        let snapshot = reader.read();
        assert_eq!(vips(&snapshot), ["default/api 10.77.0.102", "default/web 10.77.0.100"]);
        assert!(texts(&snapshot).iter().any(|text| text.contains(said)), "{:?}", texts(&snapshot));
        assert!(texts(&snapshot).iter().all(|text| text.contains("last good version")), "{:?}", texts(&snapshot));
    }
}

#[test]
fn a_deleted_file_takes_its_objects_as_long_as_another_file_is_left() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    reader.read();
    fs::remove_file(folder.path().join("web.yaml")).unwrap();
    let snapshot = reader.read();
    assert_eq!((vips(&snapshot), texts(&snapshot)), (vec![], vec![]));
}

#[test]
fn an_emptied_folder_is_an_accident_and_keeps_serving_what_was_read_last() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    let before = reader.read();
    fs::remove_file(folder.path().join("web.yaml")).unwrap();
    fs::remove_file(folder.path().join("pool.yaml")).unwrap();
    for _ in 0..2 {
        let emptied = reader.read();
        assert_eq!((&emptied.desired, &emptied.pools), (&before.desired, &before.pools));
        assert!(emptied.connected);
        let [said] = &texts(&emptied)[..] else { panic!("{:?}", texts(&emptied)) };
        assert!(said.contains(&folder.path().display().to_string()) && said.contains("leave one file in it"), "{said}");
        assert_eq!(emptied.problems[0].severity, Severity::Error);
    }
    // The pool alone is how to say that there is to be no service.
    fs::write(folder.path().join("pool.yaml"), POOL).unwrap();
    let meant = reader.read();
    assert_eq!((vips(&meant), texts(&meant)), (vec![], vec![]));
}

#[test]
fn a_folder_that_is_empty_at_the_start_is_the_same_error() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = read_once(folder.path());
    assert_eq!(vips(&snapshot), Vec::<String>::new());
    assert!(texts(&snapshot)[0].contains("holds no *.yaml"), "{:?}", texts(&snapshot));
    assert_eq!(snapshot.problems[0].severity, Severity::Error);
}

#[test]
fn limits_are_counted_once_for_each_reading_that_ran_into_them() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    assert_eq!(reader.read().limits, BTreeMap::new());
    for name in ["b.yaml", "c.yaml"] {
        fs::File::create(folder.path().join(name)).unwrap().set_len((8 << 20) + 1).unwrap();
    }
    assert_eq!(reader.read().limits, BTreeMap::from([(Limit::FileBytes, 1)]));
    let spaces = " ".repeat(8 << 20);
    for index in 0..8 {
        fs::write(folder.path().join(format!("{index}.yaml")), &spaces).unwrap();
    }
    let limits = BTreeMap::from([(Limit::FileBytes, 2), (Limit::FolderBytes, 1)]);
    let full = reader.read();
    assert_eq!(full.limits, limits, "{:?}", texts(&full));
    assert_eq!(vips(&full), ["default/web 10.77.0.100"], "what was served is not pushed out");
}

#[test]
fn more_files_or_objects_than_allowed_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..20_001 {
        fs::write(folder.path().join(format!("{index:05}.yaml")), "").unwrap();
    }
    // One file too many, the last one by name; and in the first, one object too many beside another file's.
    fs::write(folder.path().join("00000.yaml"), POOL).unwrap();
    let node = |index| format!("- {{apiVersion: v1, kind: Node, metadata: {{name: n{index}}}}}\n");
    let nodes: String = (0..MAX_OBJECTS - 1).map(node).collect();
    fs::write(folder.path().join("00001.yaml"), format!("apiVersion: v1\nkind: List\nitems:\n{nodes}")).unwrap();
    let mut reader = Reader::new(folder.path().to_owned());
    let snapshot = reader.read();
    assert_eq!(snapshot.limits, BTreeMap::from([(Limit::Files, 1), (Limit::Objects, 1)]));
    assert_eq!(snapshot.objects.values().sum::<usize>(), 2);
    let said = texts(&snapshot);
    assert!(said[0].contains("the last 1 by name are left out"), "{said:?}");
    assert!(said[1].contains("more than 100000 objects"), "{said:?}");
    // A file that is pushed beyond the limit by others keeps what it gave.
    fs::rename(folder.path().join("00000.yaml"), folder.path().join("20000.yaml")).unwrap();
    fs::remove_file(folder.path().join("00001.yaml")).unwrap();
    assert_eq!(reader.read().objects.values().sum::<usize>(), 2);
    for name in ["00000.yaml", "00001.yaml"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let pushed = reader.read();
    assert_eq!((pushed.objects.values().sum::<usize>(), pushed.limits[&Limit::Files]), (2, 2));
}

#[test]
fn a_folder_that_vanishes_is_an_accident_and_keeps_serving() {
    let folder = folder();
    let mut reader = Reader::new(folder.path().to_owned());
    let before = reader.read();
    let away = folder.path().with_extension("away");
    fs::rename(folder.path(), &away).unwrap();
    let gone = reader.read();
    fs::rename(&away, folder.path()).unwrap();
    assert_eq!(gone.desired, before.desired);
    assert!(!gone.connected);
    assert!(texts(&gone)[0].contains("cannot be read"), "{:?}", texts(&gone));
    assert_eq!(texts(&reader.read()), Vec::<String>::new());
}

#[test]
fn what_is_no_regular_file_or_too_large_is_refused_and_the_rest_is_read() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&path("a.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(path("b.yaml")).unwrap().set_len((8 << 20) + 1).unwrap();
    fs::write(path("c.yaml"), [0xff, 0xfe]).unwrap();
    fs::write(path(".web.yaml.swp"), "{").unwrap();
    fs::write(path(".hidden.yaml"), "{").unwrap();
    fs::write(path("README.md"), "{").unwrap();
    symlink("nowhere", path("d.yaml")).unwrap();
    let snapshot = read_once(folder.path());
    assert_eq!(vips(&snapshot), ["default/web 10.77.0.100"]);
    let said = texts(&snapshot);
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("not a regular file"), "{said:?}");
    assert!(said[1].contains("larger than 8 MiB"), "{said:?}");
    assert!(said[2].contains("not UTF-8"), "{said:?}");
    assert!(said[3].starts_with("d.yaml"), "{said:?}");
}

#[test]
fn a_missing_folder_is_an_error_that_says_what_to_do() {
    let snapshot = read_once(Path::new("/nonexistent/crier"));
    assert!(!snapshot.connected);
    assert!(texts(&snapshot)[0].contains("create it, or correct source.manifests"), "{:?}", texts(&snapshot));
}

/// Waits for a snapshot that satisfies the condition; fails the test after a long while without one.
async fn eventually(receiver: &mut watch::Receiver<Arc<Snapshot>>, wanted: impl Fn(&Snapshot) -> bool) {
    let found = tokio::time::timeout(Duration::from_secs(30), receiver.wait_for(|one| wanted(one))).await.is_ok();
    assert!(found, "no such snapshot; the last: {:?}", receiver.borrow());
}

#[tokio::test]
async fn changes_are_noticed_a_config_map_swap_and_a_folder_that_appears_late_too() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("manifests");
    let mut receiver = watch(folder.clone()).await;
    assert!(!receiver.borrow().connected);

    // As kubelet mounts a ConfigMap: files link to ..data/FILE, ..data links to a dated folder and is swapped.
    for (version, ip) in [("..1", "10.77.0.100"), ("..2", "10.77.0.101")] {
        fs::create_dir_all(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("pool.yaml"), POOL).unwrap();
        fs::write(folder.join(version).join("web.yaml"), service("web", ip)).unwrap();
    }
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/pool.yaml", folder.join("pool.yaml")).unwrap();
    symlink("..data/web.yaml", folder.join("web.yaml")).unwrap();
    eventually(&mut receiver, |snapshot| vips(snapshot) == ["default/web 10.77.0.100"]).await;

    symlink("..2", folder.join("..tmp")).unwrap();
    fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
    eventually(&mut receiver, |snapshot| vips(snapshot) == ["default/web 10.77.0.101"]).await;

    fs::write(folder.join("api.yaml"), service("api", "10.77.0.102")).unwrap();
    eventually(&mut receiver, |snapshot| snapshot.desired.services.len() == 2).await;
}
