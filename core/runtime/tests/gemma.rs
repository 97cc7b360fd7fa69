//! The whole loop on gemma-3-270m, a base model without a chat template and with a vocabulary of 262144: `make test-gemma`.
#![allow(clippy::unwrap_used)]

use thumbprint::{
    Budget, Feedback, GenerateOptions, Message, Options, Outcome, Request, Thumbprint,
};

const QUESTIONS: [&str; 12] = [
    "What is the capital of France?",
    "How do plants make sugar?",
    "Why is the sea salty?",
    "Who wrote Hamlet?",
    "What do bees eat?",
    "How far away is the moon?",
    "What is steel made of?",
    "Why do leaves fall in autumn?",
    "What is the tallest mountain?",
    "How does a fridge work?",
    "What causes tides?",
    "When was printing invented?",
];

#[test]
#[ignore = "needs gemma-3-270m: `make test-gemma`"]
fn gemma_is_talked_to_thumbed_trained_judged_and_served() {
    let model = std::env::var_os("THUMBPRINT_GEMMA_MODEL").expect("run `make test-gemma`");
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path().join("data")).model(model);
    options.engine.n_ctx = Some(512);
    let tp = Thumbprint::open(options).unwrap();
    for question in QUESTIONS {
        let mut replies = Vec::new();
        for max_tokens in [12, 40] {
            let mut request = Request::new(vec![Message::user(question)]);
            request.options = GenerateOptions {
                max_tokens,
                ..GenerateOptions::default()
            };
            replies.push(tp.generate(request).unwrap().wait().unwrap());
        }
        tp.record(replies[0].id, &Feedback::Up).unwrap();
        tp.record(replies[1].id, &Feedback::Down { reasons: vec![] })
            .unwrap();
    }
    let outcome = tp.personalize(Budget::default()).unwrap().wait().unwrap();
    let (id, report) = match outcome {
        Outcome::Trial(id, report) | Outcome::Rejected(id, report) => (id, report),
        other => panic!("{other:?}"),
    };
    println!("{}", report.explain());
    let details = tp.adapter(id).unwrap();
    let manifest = &details.row.manifest;
    let shifts = &manifest["logp_shifts"];
    println!("{shifts}");
    // Learned in the right direction, whatever the gate made of it.
    let shift = |side: &str| shifts[side].as_f64().unwrap();
    assert!(shift("chosen") > shift("rejected"), "{shifts}");
    assert!(tp.store().dir().join(&details.row.file).is_file());
    let reply = tp
        .generate(Request::new(vec![Message::user("What is rain?")]))
        .unwrap()
        .wait()
        .unwrap();
    assert!(!reply.text.is_empty());
}
