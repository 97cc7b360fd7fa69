//! Adapters in and out of files, added up and merged, at the command line.

use std::path::Path;

use thumbprint_fixtures::TinyModel;

use crate::harness::{Folder, Run, score, thumbprint, train};

fn run(folder: &Folder, model: &Path, arguments: &[&str]) -> Run {
    let mut command = thumbprint();
    command.arg("adapters").args(arguments);
    let needs_model = !matches!(arguments[0], "combine" | "show" | "list" | "activate");
    if needs_model {
        command.arg("--model").arg(model);
    }
    Run::of(
        command
            .arg("--json")
            .arg("--data-dir")
            .arg(folder.path("data")),
    )
}

#[test]
fn a_trained_file_is_taken_in_combined_exported_and_merged() {
    let folder = Folder::new();
    let (model, data, file) = (folder.tiny(), folder.pairs(), folder.path("a.gguf"));
    Run::of(train(&model, &data, &file).args(["--max-steps", "6"])).ok();
    let path = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| run(&folder, &model, arguments);
    let taken = run(&["import", &path("a.gguf")]).ok().object();
    assert_eq!(taken["adapter"], 1);
    assert_eq!(
        run(&["import", &path("a.gguf"), "--format", "gguf"])
            .ok()
            .object()["adapter"],
        1
    );
    run(&["import", &path("a.gguf"), "--format", "peft"]).failed(2, &["a.gguf is a file"]);

    run(&["export", "1", &path("peft"), "--format", "peft"]).ok();
    assert!(folder.path("peft/adapter_config.json").is_file());
    assert_eq!(run(&["import", &path("peft")]).ok().object()["adapter"], 1);
    run(&["import", &path("peft"), "--format", "gguf"]).failed(2, &["peft is a folder"]);
    run(&["export", "1", &path("b.gguf")]).ok();
    assert_eq!(
        std::fs::read(&file).unwrap(),
        std::fs::read(folder.path("b.gguf")).unwrap()
    );

    let half = run(&["combine", "1:0.5"]).ok().object();
    assert_eq!(
        (&half["adapter"], &half["made"]["rank"]),
        (&2.into(), &8.into())
    );
    let back = run(&["combine", "1", "2:-1", "--rank", "4"]).ok().object();
    assert_eq!(
        (&back["adapter"], &back["made"]["rank"]),
        (&3.into(), &4.into())
    );
    run(&["combine", "1:x"]).failed(2, &["finite number"]);
    run(&["combine", "one"]).failed(2, &["no adapter's id"]);
    run(&["combine", "77"]).failed(1, &["no adapter 77"]);
    run(&["activate", "2"]).ok();
    let shown = run(&["show", "2"]).ok().object();
    assert_eq!(
        (&shown["active"], &shown["state"]),
        (&true.into(), &"trial".into())
    );
    assert_eq!(shown["config"]["made"]["parts"][0]["weight"], 0.5);

    // What the merged model says alone is what the base says with the adapter.
    for source in ["1", &path("a.gguf")] {
        let merged = path("merged.gguf");
        let said = run(&["merge", source, "--type", "F32", "--out", &merged])
            .ok()
            .object();
        assert_eq!(
            (&said["changed"], &said["left"]),
            (&14.into(), &serde_json::json!([]))
        );
        let logps = |run: Run| -> Vec<f64> {
            let rows = run.ok().objects();
            let rows = rows.iter().filter(|row| row.get("line").is_some());
            rows.map(|row| row["chosen_logp"].as_f64().unwrap())
                .collect()
        };
        let alone = logps(Run::of(score(Path::new(&merged), &data).arg("--json")));
        let with = logps(Run::of(
            score(&model, &data)
                .arg("--json")
                .arg("--adapter")
                .arg(&file),
        ));
        assert_eq!(alone.len(), 8);
        for (alone, with) in alone.iter().zip(with) {
            // Observed 4e-5.
            assert!((alone - with).abs() < 2e-3, "{alone} {with}");
        }
    }
    let q8 = path("q8.gguf");
    run(&["merge", "1", "--type", "q8_0", "--out", &q8]).ok();
    let mut command = score(Path::new(&q8), &data);
    Run::of(&mut command).ok();
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let folder = Folder::new();
    let (model, data, file) = (folder.tiny(), folder.pairs(), folder.path("a.gguf"));
    Run::of(train(&model, &data, &file).args(["--max-steps", "1"])).ok();
    let another = folder.model(
        "another.gguf",
        &TinyModel {
            seed: 5,
            ..TinyModel::llama()
        },
    );
    let file = file.to_str().unwrap();
    let out = folder.path("merged.gguf");
    let merged = out.to_str().unwrap();
    for arguments in [&["import", file][..], &["merge", file, "--out", merged]] {
        run(&folder, &another, arguments).failed(1, &["was made for the base model"]);
    }
    // Without its name, a file has to be vouched for.
    let nameless = folder.path("nameless.gguf");
    let mut adapter = thumbprint_tune::adapter::AdapterFile::read(Path::new(file)).unwrap();
    adapter.base_sha256 = None;
    adapter.write(&nameless).unwrap();
    let nameless = nameless.to_str().unwrap();
    for arguments in [
        &["import", nameless][..],
        &["merge", nameless, "--out", merged],
    ] {
        run(&folder, &model, arguments)
            .failed(1, &["nameless.gguf does not say", "--accept-unnamed-base"]);
        let accepted = [arguments, &["--accept-unnamed-base"]].concat();
        run(&folder, &model, &accepted).ok();
    }
    std::fs::remove_file(&out).unwrap();
    for (arguments, code, words) in [
        (
            &["merge", file, "--out", merged, "--type", "q9"][..],
            2,
            "q4_1",
        ),
        (
            &["merge", file, "--out", merged, "--type", "q4_K"],
            1,
            "rows of 64",
        ),
        (
            &["merge", "1", "--out", merged, "--scale", "2"],
            2,
            "--scale is for files",
        ),
        (&["merge", "absent.gguf", "--out", merged], 1, "absent.gguf"),
        (
            &["merge", file, "--out", "/nonexistent/x.gguf"],
            1,
            "/nonexistent",
        ),
        (&["import", "absent.gguf"], 1, "absent.gguf"),
    ] {
        run(&folder, &model, arguments).failed(code, &[words]);
    }
    assert!(!out.exists());
}
