//! A job's files, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod permissions;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use worker_files::{
    BadName, CacheError, CacheKey, FileError, FileId, JobFiles, Limits, ModelCache, OutputKind,
    Part, Partial, Received, ScratchRoot, WantedFile,
};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

struct Rig {
    dir: tempfile::TempDir,
    root: ScratchRoot,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = ScratchRoot::open(&dir.path().join("a/scratch")).unwrap();
        Self { dir, root }
    }

    fn files(&self, limits: Limits) -> JobFiles {
        JobFiles::new(self.root.job("job-1").unwrap(), limits)
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }
}

fn part(text: &str) -> Part {
    Part::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn files_are_written_read_and_joined() {
    let rig = Rig::new();
    let files = rig.files(Limits::default());
    let a = files
        .write("a.txt", &[part("hello "), part("world")])
        .await
        .unwrap();
    assert_eq!((a.id, a.size, a.media_type), (FileId(0), 11, None));
    let b = files
        .write(
            "b.txt",
            &[
                part("<"),
                Part::File(a.id),
                part("|"),
                Part::Base64(a.id),
                part(">"),
            ],
        )
        .await
        .unwrap();
    let expected = "<hello world|aGVsbG8gd29ybGQ=>";
    assert_eq!((b.id, b.size), (FileId(1), expected.len() as u64));
    assert_eq!(files.bytes(b.id, 100).await.unwrap(), expected);
    assert_eq!(files.read(b.id, 1, 5).await.unwrap(), "hello");
    assert_eq!(files.read(b.id, 28, 50).await.unwrap(), "=>");
    assert_eq!(files.read(b.id, 1 << 60, 50).await.unwrap(), "");
    let joined = files
        .assemble(&[Part::Base64(a.id), part("!")], 100)
        .await
        .unwrap();
    assert_eq!(joined, "aGVsbG8gd29ybGQ=!");
    assert_eq!(files.assemble(&[], 0).await.unwrap(), "");
    // The same name twice: two files.
    let c = files
        .write("a.txt", &[Part::Bytes(Bytes::from_static(PNG))])
        .await
        .unwrap();
    assert_eq!(c.media_type, Some("image/png"));
    assert_eq!(files.bytes(a.id, 100).await.unwrap(), "hello world");
    assert_eq!(files.list().len(), 3);
    files.remove().await;
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn numbers_names_and_sizes_are_checked() {
    let rig = Rig::new();
    let limits = Limits {
        read_bytes: 8,
        file_bytes: 10,
        scratch_bytes: 15,
        files: 3,
        ..Limits::default()
    };
    let files = rig.files(limits);
    let missing = FileId(7);
    assert!(matches!(
        files.get(missing),
        Err(FileError::NoSuchFile(FileId(7)))
    ));
    assert!(matches!(
        files.read(missing, 0, 1).await,
        Err(FileError::NoSuchFile(_))
    ));
    assert!(matches!(
        files.write("x", &[Part::File(missing)]).await,
        Err(FileError::NoSuchFile(_))
    ));
    assert!(matches!(
        files.write("../x", &[]).await,
        Err(FileError::Name {
            why: BadName::Separator,
            ..
        })
    ));
    assert!(matches!(
        files.write("a/x", &[]).await,
        Err(FileError::Name {
            why: BadName::Separator,
            ..
        })
    ));
    let too_large = files.write("x", &[part("12345678901")]).await;
    assert!(matches!(
        too_large,
        Err(FileError::TooLarge {
            bytes: 11,
            limit: 10,
            ..
        })
    ));
    let a = files.write("x", &[part("1234567890")]).await.unwrap();
    assert!(matches!(
        files.read(a.id, 0, 9).await,
        Err(FileError::TooLarge { limit: 8, .. })
    ));
    assert!(matches!(
        files.bytes(a.id, 100).await,
        Err(FileError::TooLarge {
            bytes: 10,
            limit: 8,
            ..
        })
    ));
    // What was refused takes no room: 5 bytes are left, and fit once.
    assert!(matches!(
        files.write("y", &[part("123456")]).await,
        Err(FileError::TooLarge {
            bytes: 16,
            limit: 15,
            ..
        })
    ));
    files.write("y", &[part("12345")]).await.unwrap();
    assert!(matches!(
        files.write("z", &[part("1")]).await,
        Err(FileError::TooLarge { .. })
    ));
    files.write("z", &[]).await.unwrap();
    assert!(matches!(
        files.write("z", &[]).await,
        Err(FileError::TooMany { limit: 3, .. })
    ));
    assert_eq!(files.list().len(), 3);
}

#[tokio::test]
async fn writes_side_by_side_share_the_room() {
    let rig = Rig::new();
    let files = Arc::new(rig.files(Limits {
        scratch_bytes: 500,
        ..Limits::default()
    }));
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let files = Arc::clone(&files);
        writes.spawn(async move { files.write("x", &[part(&"x".repeat(100))]).await.is_ok() });
    }
    let done = writes
        .join_all()
        .await
        .into_iter()
        .filter(|done| *done)
        .count();
    assert_eq!((done, files.list().len()), (5, 5));
}

#[tokio::test]
async fn inputs_are_named_by_content() {
    let rig = Rig::new();
    let files = rig.files(Limits::default());
    let path = files.input_path().unwrap();
    fs::write(&path, PNG).unwrap();
    let input = files.adopt(path, "latest.webp").await.unwrap();
    assert_eq!(
        (input.name.as_str(), input.media_type, input.size),
        ("latest.png", Some("image/png"), 12)
    );
    let path = files.program_path(input.id).unwrap();
    assert!(path.ends_with("latest.png") && path.starts_with(files.scratch().path()));
    assert_eq!(fs::read(path).unwrap(), PNG);
    // A link in place of a download leads nowhere.
    let path = files.input_path().unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(
        files.adopt(path, "x").await,
        Err(FileError::NotRegular { .. })
    ));
    let path = files.input_path().unwrap();
    assert!(matches!(
        files.adopt(path, "x").await,
        Err(FileError::Io { .. })
    ));
}

#[tokio::test]
async fn cached_files_are_shown_under_their_own_names() {
    let rig = Rig::new();
    let cache = ModelCache::open(&rig.dir.path().join("models")).unwrap();
    let commit = async |text: &'static str| {
        let wanted = WantedFile {
            url: text.to_owned(),
            sha256: None,
            name: "model.gguf".to_owned(),
            model: "m".to_owned(),
            approx_bytes: None,
        };
        let bring = |partial: Partial| async move {
            fs::write(partial.path(), text)?;
            Ok::<_, io::Error>(Received {
                sha256: [0; 32],
                bytes: text.len() as u64,
                validator: None,
            })
        };
        let never = CancellationToken::new();
        cache.obtain(&wanted, &never, || {}, bring).await.unwrap()
    };
    let (one, two) = (commit("one").await, commit("two").await);
    let files = rig.files(Limits {
        scratch_bytes: 0,
        ..Limits::default()
    });
    // Two models with one name.
    let a = files.adopt_cached(&one, "model.gguf").await.unwrap();
    let b = files.adopt_cached(&two, "model.gguf").await.unwrap();
    assert!(files.get(a.id).unwrap().cached);
    let (path_a, path_b) = (
        files.program_path(a.id).unwrap(),
        files.program_path(b.id).unwrap(),
    );
    assert!(path_a.ends_with("model.gguf") && path_b.ends_with("model.gguf"));
    assert_eq!(
        (fs::read(&path_a).unwrap(), fs::read(&path_b).unwrap()),
        (b"one".to_vec(), b"two".to_vec())
    );
    // Shown by a link, never by a second name through which a program could write; the real files are told apart from it.
    assert!(fs::symlink_metadata(&path_a).unwrap().is_symlink());
    assert_eq!(
        files.real_paths(&[a.id, b.id, a.id]).unwrap(),
        [one.path.clone(), two.path.clone()]
    );
    assert_eq!(fs::metadata(&one.path).unwrap().mode() & 0o777, 0o444);
    let dir = files
        .show_directory(&[("x.bin".into(), a.id), ("y.bin".into(), b.id)])
        .unwrap();
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["x.bin", "y.bin"]);
    let twice = files.show_directory(&[("x".into(), a.id), ("x".into(), b.id)]);
    assert!(
        matches!(&twice, Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists)
    );
    assert!(matches!(
        files.show_directory(&[("../x".into(), a.id)]),
        Err(FileError::Name { .. })
    ));
    assert!(matches!(
        files.adopt_cached(&one, "a/b").await,
        Err(FileError::Name { .. })
    ));
    // As long as the job lives, nothing removes its models; and one that is touched is used no more.
    assert!(matches!(
        cache.remove(&one.key),
        Err(CacheError::InUse { .. })
    ));
    fs::remove_file(&two.path).unwrap();
    fs::write(&two.path, "TWO").unwrap();
    assert!(matches!(
        files.program_path(b.id),
        Err(FileError::Model(CacheError::Changed { .. }))
    ));
    assert!(matches!(
        files.read(b.id, 0, 3).await,
        Err(FileError::Model(_))
    ));
    files.remove().await;
    // The job's end takes the names, never the files.
    assert_eq!(fs::read(&one.path).unwrap(), b"one");
    assert_eq!(fs::metadata(&one.path).unwrap().nlink(), 1);
}

#[tokio::test]
async fn outputs_are_collected_and_links_left_out() {
    let rig = Rig::new();
    let files = rig.files(Limits::default());
    let kinds = [
        OutputKind::File("webp".into()),
        OutputKind::Folder,
        OutputKind::Stdout("json".into()),
        OutputKind::File("png".into()),
        OutputKind::File("txt".into()),
    ];
    let command = files.prepare_outputs(&kinds).unwrap();
    assert_eq!(command.output(2), None);
    assert_eq!(command.output(5), None);
    fs::write(command.output(0).unwrap(), PNG).unwrap();
    let folder = command.output(1).unwrap();
    fs::write(folder.join("b.txt"), "b").unwrap();
    fs::write(folder.join("a.txt"), "a").unwrap();
    symlink("/etc/passwd", folder.join("passwd")).unwrap();
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(command.stdout().unwrap(), "").unwrap();
    symlink("/etc/passwd", command.output(3).unwrap()).unwrap();
    let beside = command.dir().join("silent.png");
    fs::write(&beside, PNG).unwrap();
    // Another name of a file elsewhere, a pipe, and a name for the terminal.
    let mine = rig.dir.path().join("mine");
    fs::write(&mine, "mine").unwrap();
    fs::hard_link(&mine, command.dir().join("stolen")).unwrap();
    let fifo = command.dir().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    fs::write(command.dir().join("\u{1b}[2J"), "").unwrap();
    fs::write(command.dir().join(".hidden"), "").unwrap();

    let collected = files.collect(&command).await.unwrap();
    let names: Vec<Vec<&str>> = collected
        .outputs
        .iter()
        .map(|files| files.iter().map(|file| file.name.as_str()).collect())
        .collect();
    assert_eq!(
        names,
        [
            vec!["output-0.webp"],
            vec!["a.txt", "b.txt"],
            vec![],
            vec![],
            vec![]
        ]
    );
    // By content, whatever it is called.
    assert_eq!(collected.outputs[0][0].media_type, Some("image/png"));
    let extra: Vec<&str> = collected
        .extra
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(extra, ["silent.png"]);
    assert_eq!(collected.skipped, 7);
    assert_eq!(files.list().len(), 4);
    // The next command has a directory of its own.
    assert_ne!(files.prepare_outputs(&kinds).unwrap().dir(), command.dir());
}

#[tokio::test]
async fn outputs_are_refused_or_bounded() {
    let rig = Rig::new();
    let limits = Limits {
        file_bytes: 10,
        scratch_bytes: 25,
        collected: 4,
        ..Limits::default()
    };
    let files = rig.files(limits);
    let refused = |kind: OutputKind| files.prepare_outputs(&[kind]).unwrap_err();
    for extension in ["", "a/b", "../x", "tar.gz", "a b"] {
        assert!(
            matches!(
                refused(OutputKind::File(extension.into())),
                FileError::Name { .. }
            ),
            "{extension}"
        );
    }
    let stdout = || OutputKind::Stdout("txt".into());
    assert!(matches!(
        files.prepare_outputs(&[stdout(), stdout()]),
        Err(FileError::SecondStdout)
    ));
    assert!(matches!(
        files.prepare_outputs(&vec![OutputKind::Folder; 5]),
        Err(FileError::TooMany { limit: 4, .. })
    ));

    let command = files.prepare_outputs(&[OutputKind::Folder]).unwrap();
    let at = |name: &str| command.output(0).unwrap().join(name);
    fs::write(at("big"), "12345678901").unwrap();
    assert!(matches!(
        files.collect(&command).await,
        Err(FileError::TooLarge { limit: 10, .. })
    ));
    for name in ["big", "b", "c"] {
        fs::write(at(name), "1234567890").unwrap();
    }
    assert!(matches!(
        files.collect(&command).await,
        Err(FileError::TooLarge {
            bytes: 30,
            limit: 25,
            ..
        })
    ));
    for name in ["big", "b", "c", "d", "e"] {
        fs::write(at(name), "").unwrap();
    }
    assert!(matches!(
        files.collect(&command).await,
        Err(FileError::TooMany { .. })
    ));
    assert!(files.list().is_empty());
    for name in ["d", "e"] {
        fs::remove_file(at(name)).unwrap();
    }
    assert_eq!(files.collect(&command).await.unwrap().outputs[0].len(), 3);
    // A directory swapped for a link is not followed.
    let command = files.prepare_outputs(&[OutputKind::Folder]).unwrap();
    fs::remove_dir(command.output(0).unwrap()).unwrap();
    symlink("/etc", command.output(0).unwrap()).unwrap();
    let collected = files.collect(&command).await.unwrap();
    assert_eq!((collected.outputs, collected.skipped), (vec![vec![]], 1));
}

#[test]
fn a_key_is_one_of_two_kinds() {
    assert_eq!(
        CacheKey::of(Some([1; 32]), "https://a/"),
        CacheKey::Content([1; 32])
    );
    let url = CacheKey::of(None, "https://a/");
    assert!(matches!(url, CacheKey::Url(_)));
    assert_ne!(url, CacheKey::of(None, "https://b/"));
}

#[tokio::test]
async fn what_nobody_takes_counts_too() {
    let rig = Rig::new();
    let files = rig.files(Limits {
        scratch_bytes: 100_000,
        ..Limits::default()
    });
    let command = files
        .prepare_outputs(&[OutputKind::File("txt".into())])
        .unwrap();
    fs::write(command.output(0).unwrap(), "small").unwrap();
    let deep = command.dir().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("hidden"), vec![1; 60_000]).unwrap();
    assert!(files.collect(&command).await.is_ok());
    fs::write(files.scratch().home().join("more"), vec![1; 60_000]).unwrap();
    assert!(matches!(
        files.collect(&command).await,
        Err(FileError::TooLarge { limit: 100_000, .. })
    ));
}

#[tokio::test]
async fn what_is_hidden_is_not_taken_for_nothing() {
    if !permissions::hold("what_is_hidden_is_not_taken_for_nothing") {
        return;
    }
    let rig = Rig::new();
    let files = rig.files(Limits::default());
    let command = files
        .prepare_outputs(&[OutputKind::File("txt".into())])
        .unwrap();
    fs::write(command.output(0).unwrap(), "small").unwrap();
    let shut = files.scratch().home().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o300)).unwrap();
    assert!(matches!(
        files.collect(&command).await,
        Err(FileError::Closed { .. })
    ));
    files.remove().await;
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn what_the_table_refuses_does_not_stay() {
    let rig = Rig::new();
    let files = rig.files(Limits {
        scratch_bytes: 100,
        files: 1,
        ..Limits::default()
    });
    let brought = |bytes: usize| {
        let path = files.input_path().unwrap();
        fs::write(&path, "x".repeat(bytes)).unwrap();
        path
    };
    let folders = || fs::read_dir(files.scratch().path()).unwrap().flatten();
    let inputs = || folders().filter(|entry| entry.file_name() != "home");
    let lying = || inputs().filter_map(|entry| fs::read_dir(entry.path()).ok());
    let lying = || lying().flatten().count();
    let adopted = files.adopt(brought(101), "x").await;
    assert!(matches!(adopted, Err(FileError::TooLarge { .. })));
    assert_eq!(lying(), 0);
    files.adopt(brought(10), "x").await.unwrap();
    let adopted = files.adopt(brought(10), "x").await;
    assert!(matches!(adopted, Err(FileError::TooMany { .. })));
    let written = files.write("y", &[part("made")]).await;
    assert!(matches!(written, Err(FileError::TooMany { .. })));
    assert_eq!((lying(), files.room_left()), (1, 90));
}

#[tokio::test]
async fn what_cannot_be_removed_is_refused_for_what_it_is() {
    if !permissions::hold("what_cannot_be_removed_is_refused_for_what_it_is") {
        return;
    }
    let rig = Rig::new();
    let files = rig.files(Limits {
        scratch_bytes: 100,
        ..Limits::default()
    });
    let path = files.input_path().unwrap();
    fs::write(&path, "x".repeat(101)).unwrap();
    let folder = path.parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    // It has that name already.
    let adopted = files.adopt(path.clone(), "download").await;
    assert!(
        matches!(adopted, Err(FileError::TooLarge { limit: 100, .. })),
        "{adopted:?}"
    );
    assert!(path.exists() && files.list().is_empty());
    files.remove().await;
    assert!(rig.left().is_empty());
}
