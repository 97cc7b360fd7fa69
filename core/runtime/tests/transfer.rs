//! Adapters in and out of files, added up and merged: the base is checked, nothing that was forgotten comes back.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use thumbprint::gate::AdapterState;
use thumbprint::store::{NewAdapter, StoreError};
use thumbprint::types::Sampling;
use thumbprint::{
    AdapterFormat, AdapterId, By, Error, ErrorKind, Feedback, FeedbackId, Message, Options, Part,
    Request, Target, Thumbprint, hash_file,
};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::gguf::Gguf;
use thumbprint_tune::adapter::{AdapterError, AdapterFile, Lora, LoraConfig};
use thumbprint_tune::model::Model;
use thumbprint_tune::trainer::lora_shapes;

/// Data folders beside a tiny model.
struct World {
    folder: TempDir,
    model: PathBuf,
}

impl World {
    fn new() -> Self {
        Self::of(&TinyModel::llama())
    }

    fn of(tiny: &TinyModel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        tiny.write(&model);
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, name: &str) -> Thumbprint {
        self.open_with(name, &self.model)
    }

    fn open_with(&self, name: &str, model: &Path) -> Thumbprint {
        let mut options = Options::new(self.path(name)).model(model);
        options.engine.n_ctx = Some(512);
        options.engine.n_threads = Some(1);
        Thumbprint::open(options).unwrap()
    }

    fn lora(&self, rank: usize, seed: u64) -> Lora {
        let model = Model::open(&self.model).unwrap();
        let config = LoraConfig {
            rank,
            alpha: 2.5 * rank as f32,
            seed,
            ..LoraConfig::default()
        };
        let mut lora = Lora::new(config, &lora_shapes(&model)).unwrap();
        lora.randomize_b(0.2, seed + 50);
        lora
    }

    fn file(&self, rank: usize, seed: u64) -> AdapterFile {
        AdapterFile {
            lora: self.lora(rank, seed),
            architecture: Model::open(&self.model).unwrap().spec.architecture,
            base_sha256: Some(hash_file(&self.model).unwrap()),
        }
    }

    /// An adapter in a data folder, as if it had been trained on these events.
    fn trained(&self, tp: &Thumbprint, seed: u64, items: &[FeedbackId]) -> AdapterId {
        let bytes = self.file(3, seed).to_bytes().unwrap();
        let file = PathBuf::from(format!("adapters/trained-{seed}.gguf"));
        let path = tp.store().dir().join(&file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        let digest = Sha256::digest(&bytes);
        let id = tp.store().insert_adapter(&NewAdapter {
            base_hash: hash_file(&self.model).unwrap(),
            run: None,
            config: serde_json::json!({}),
            manifest: serde_json::json!({}),
            items: items.to_vec(),
            file,
            file_hash: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            seed,
        });
        id.unwrap()
    }
}

fn thumb(tp: &Thumbprint, question: &str) -> FeedbackId {
    tp.record_external(&[Message::user(question)], "Yes.", &Feedback::Up)
        .unwrap()
}

fn reply(tp: &Thumbprint, by: By) -> String {
    let mut request = Request::new(vec![Message::user("Hello there")]);
    request.by = by;
    request.options.max_tokens = 24;
    request.options.sampling = Sampling::greedy();
    tp.generate(request).unwrap().wait().unwrap().text
}

fn stored(tp: &Thumbprint, id: AdapterId) -> Vec<u8> {
    let row = tp.adapter(id).unwrap().row;
    std::fs::read(tp.store().dir().join(row.file)).unwrap()
}

#[test]
fn what_was_exported_in_either_form_is_taken_in_elsewhere_byte_for_byte_and_can_be_tried() {
    // With rows in another order in PEFT's form, and without.
    for tiny in [TinyModel::llama(), TinyModel::qwen3()] {
        let world = World::of(&tiny);
        let tp = world.open("home");
        let id = world.trained(&tp, 1, &[]);
        tp.export(id, &world.path("a.gguf"), AdapterFormat::Gguf)
            .unwrap();
        tp.export(id, &world.path("peft"), AdapterFormat::Peft)
            .unwrap();
        let wanted = reply(&tp, By::Adapter(id));
        assert_ne!(wanted, reply(&tp, By::Base));
        for (form, path) in [("gguf", "a.gguf"), ("peft", "peft")] {
            let other = world.open(form);
            let taken = other.import_adapter(&world.path(path), false).unwrap();
            assert_eq!(stored(&other, taken), stored(&tp, id), "{form}");
            assert_eq!(
                other.import_adapter(&world.path(path), false).unwrap(),
                taken,
                "a second time it is there already"
            );
            let details = other.adapter(taken).unwrap();
            assert_eq!(
                (details.row.state, details.active),
                (AdapterState::Candidate, false)
            );
            other.activate(taken).unwrap();
            let details = other.adapter(taken).unwrap();
            assert_eq!(
                (details.row.state, details.active),
                (AdapterState::Trial, true)
            );
            let explanation = details.decisions[0].decision.numbers["explanation"].as_str();
            assert!(explanation.unwrap().contains("without the checks"));
            assert_eq!(reply(&other, By::Active), wanted, "{form}");
        }
    }
}

#[test]
fn an_adapter_of_another_base_or_of_none_is_refused() {
    let world = World::new();
    let tp = world.open("home");
    let path = world.path("a.gguf");
    let refused = |adapter: &AdapterFile| {
        adapter.write(&path).unwrap();
        let error = tp.import_adapter(&path, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Adapter, "{error}");
        error
    };
    let good = world.file(2, 1);
    let other = AdapterFile {
        base_sha256: Some("ab".repeat(32)),
        ..good.clone()
    };
    assert!(matches!(
        refused(&other),
        Error::Adapter(AdapterError::OtherBase { .. })
    ));
    // Saying that the base is known does not help one that names another.
    assert!(tp.import_adapter(&path, true).is_err());
    let nameless = AdapterFile {
        base_sha256: None,
        ..good.clone()
    };
    let error = refused(&nameless);
    assert!(
        error.to_string().contains("a.gguf does not say which base"),
        "{error}"
    );
    let id = tp.import_adapter(&path, true).unwrap();
    let kept = AdapterFile::read(&tp.store().dir().join(&tp.adapter(id).unwrap().row.file));
    assert_eq!(
        kept.unwrap().base_sha256,
        good.base_sha256,
        "from now on it names its base"
    );

    let wide = World::of(&TinyModel::wide_llama());
    let misfit = AdapterFile {
        base_sha256: None,
        ..wide.file(2, 1)
    };
    misfit.write(&path).unwrap();
    let error = tp.import_adapter(&path, true).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_"), "{error}");
    std::fs::write(&path, "no adapter").unwrap();
    assert!(tp.import_adapter(&path, true).is_err());
    assert!(matches!(
        tp.import_adapter(&world.path("absent"), true),
        Err(Error::File { .. })
    ));
    assert_eq!(tp.adapters().unwrap().len(), 1);

    // The model at hand is another one than the adapter's.
    let another = World::of(&TinyModel {
        seed: 2,
        ..TinyModel::llama()
    });
    let tp = world.open_with("home", &another.model);
    for error in [
        tp.export(id, &world.path("peft"), AdapterFormat::Peft)
            .unwrap_err(),
        tp.merge(id, None, &world.path("m.gguf")).unwrap_err(),
    ] {
        let other =
            matches!(error, Error::Store(StoreError::OtherBase { adapter }) if adapter == id);
        assert!(other, "{error}");
    }
    assert!(!world.path("peft").exists() && !world.path("m.gguf").exists());
}

#[test]
fn a_sum_is_forgotten_with_what_any_of_its_parts_learned_from() {
    let world = World::new();
    let tp = world.open("home");
    let (first, second) = (thumb(&tp, "One?"), thumb(&tp, "Two?"));
    let a = world.trained(&tp, 1, &[first]);
    let b = world.trained(&tp, 2, &[second]);
    let part = |adapter, weight| Part { adapter, weight };
    let sum = tp.combine(&[part(a, 1.0), part(b, 0.5)], None).unwrap();
    let cut = tp.combine(&[part(a, 1.0), part(b, -1.0)], Some(4)).unwrap();
    let alone = tp.combine(&[part(b, 2.0)], None).unwrap();
    assert_eq!(
        tp.combine(&[part(a, 1.0), part(b, 0.5)], None).unwrap(),
        sum,
        "the same sum is the same adapter"
    );
    assert_eq!(tp.store().adapter_items(sum).unwrap(), [first, second]);
    let made = |id| tp.adapter(id).unwrap().row.config["made"].clone();
    assert_eq!(
        (&made(sum)["rank"], &made(sum)["lost"]),
        (&6.into(), &0.0.into())
    );
    let lost = made(cut)["lost"].as_f64().unwrap();
    assert!(made(cut)["rank"] == 4 && lost > 0.0 && lost < 0.5, "{lost}");

    assert!(tp.combine(&[], None).is_err());
    assert!(tp.combine(&[part(a, f32::NAN)], None).is_err());
    assert!(tp.combine(&[part(a, 1.0)], Some(0)).is_err());
    assert!(matches!(
        tp.combine(&[part(AdapterId(99), 1.0)], None),
        Err(Error::Store(StoreError::UnknownAdapter(_)))
    ));

    tp.activate(sum).unwrap();
    let exported = world.path("sum.gguf");
    tp.export(sum, &exported, AdapterFormat::Gguf).unwrap();
    tp.export(sum, &world.path("peft"), AdapterFormat::Peft)
        .unwrap();
    let files = [sum, cut].map(|id| tp.store().dir().join(tp.adapter(id).unwrap().row.file));
    let forgotten = tp.forget(Target::Feedback(first)).unwrap();
    assert_eq!(forgotten.adapters, [a, sum, cut]);
    assert!(files.iter().all(|file| !file.exists()));
    let details = tp.adapter(sum).unwrap();
    assert_eq!(
        (details.row.state, details.active),
        (AdapterState::Forgotten, false)
    );
    assert_eq!(
        tp.adapter(alone).unwrap().row.state,
        AdapterState::Candidate
    );
    // Nor does it come back by the way of a file.
    for path in [exported, world.path("peft")] {
        let error = tp.import_adapter(&path, false).unwrap_err();
        let known = matches!(error, Error::ForgottenAdapter { adapter } if adapter == sum);
        assert!(known, "{error}");
    }
}

#[test]
fn forgetting_everything_takes_adapters_with_it_that_do_not_say_what_they_learned_from() {
    let world = World::new();
    let tp = world.open("home");
    world.file(2, 1).write(&world.path("a.gguf")).unwrap();
    let id = tp.import_adapter(&world.path("a.gguf"), false).unwrap();
    tp.activate(id).unwrap();
    let file = tp.store().dir().join(tp.adapter(id).unwrap().row.file);
    let forgotten = tp.forget(Target::Everything).unwrap();
    assert_eq!(forgotten.adapters, [id]);
    assert!(!file.exists() && !tp.adapter(id).unwrap().active);
}

#[test]
fn a_merged_model_answers_as_base_and_adapter_do() {
    let world = World::new();
    let tp = world.open("home");
    let id = world.trained(&tp, 1, &[]);
    let merged = world.path("merged.gguf");
    let outcome = tp.merge(id, Some(GgmlType::F32), &merged).unwrap();
    assert_eq!((outcome.changed, outcome.left.len()), (14, 0));
    let wanted = reply(&tp, By::Adapter(id));
    let other = world.open_with("merged", &merged);
    assert_eq!(reply(&other, By::Base), wanted);
    assert_ne!(reply(&tp, By::Base), wanted);

    tp.merge(id, Some(GgmlType::Q8_0), &merged).unwrap();
    let file = Gguf::open(&merged).unwrap();
    let down = file.tensor("blk.1.ffn_down.weight").unwrap();
    assert_eq!(down.ty, GgmlType::Q8_0);
    let error = tp.merge(id, Some(GgmlType::Q4_K), &merged).unwrap_err();
    assert!(error.to_string().contains("rows of 64"), "{error}");

    // At the scale that it is served at.
    tp.store()
        .set_adapter_gate(id, &serde_json::json!({}), 0.0, AdapterState::Trial)
        .unwrap();
    tp.merge(id, None, &merged).unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(read(&merged) == read(&world.model));
}
