//! The engine's behaviour, on a tiny model whose text is nonsense.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::{adapter, ask, close, draw, greedy, run};
use thumbprint::engine::{
    AdapterSource, Canceller, Completed, Engine, EngineError, EngineOptions, Event,
    GenerateOptions, ModelSource, Overflow, Prompt, Request, ScoreText, With,
};
use thumbprint::types::{Message, Sampling, StopReason};
use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::llama::FlashAttention;

#[test]
fn greedy_replies_repeat_and_seeded_ones_repeat_with_their_seed() {
    let engine = engine();
    let greedy = || run(&engine, &ask("Name three colours.", greedy(24)));
    assert_eq!(greedy().tokens, greedy().tokens);

    let drawn = |seed| run(&engine, &ask("Tell me a story.", draw(24, seed)));
    let (a, b, c) = (drawn(1), drawn(1), drawn(2));
    assert_eq!((&a.tokens, a.sampling.seed), (&b.tokens, 1));
    assert_ne!(a.tokens, c.tokens);
    assert_ne!(
        GenerateOptions::default().sampling.seed,
        GenerateOptions::default().sampling.seed
    );
}

#[test]
fn streamed_text_is_the_reply_and_never_a_broken_character() {
    let engine = engine();
    let model = engine.chat().model();
    let mut broken = 0;
    for seed in 0..20 {
        // Random bytes: most are no characters, and the rest come in pieces.
        let mut generation = engine.generate(&ask("🦀 東京", draw(60, seed))).unwrap();
        let mut streamed = String::new();
        let reply = loop {
            match generation.next().unwrap().unwrap() {
                Event::Token { text } => {
                    assert!(!text.is_empty());
                    streamed += &text;
                }
                Event::Done(reply) => break reply,
            }
        };
        assert_eq!(generation.next().unwrap(), None);
        assert_eq!(streamed, reply.text);
        let pieces = reply
            .tokens
            .iter()
            .map(|&token| model.token_to_piece(token, false));
        assert_eq!(
            String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()),
            reply.text
        );
        broken += reply.text.matches(char::REPLACEMENT_CHARACTER).count();
    }
    assert!(broken > 0);
}

#[test]
fn a_reply_ends_at_a_stop_string_and_says_so() {
    let engine = engine();
    let request = |stop: Vec<String>| {
        ask(
            "Go on.",
            GenerateOptions {
                stop,
                ..draw(60, 4)
            },
        )
    };
    let whole = run(&engine, &request(vec![]));
    // Three characters from the middle, which come from more than one token.
    let characters: Vec<char> = whole.text.chars().collect();
    let middle = characters.len() / 2;
    let stop: String = characters[middle..middle + 3].iter().collect();
    let stopped = run(&engine, &request(vec!["never said".into(), stop.clone()]));
    assert_eq!(stopped.stop_reason, StopReason::StopString);
    assert_eq!(stopped.text, whole.text.split(&stop).next().unwrap());
    assert!(stopped.tokens.len() < whole.tokens.len() && whole.tokens.starts_with(&stopped.tokens));
}

#[test]
fn a_conversation_computes_only_what_is_new_and_says_the_same() {
    let engine = engine();
    let mut messages = vec![
        Message::system("You are brief."),
        Message::user("Name a fruit."),
    ];
    // Letters, so that the text becomes the same tokens again.
    let first = run(&engine, &Request::chat(messages.clone(), greedy(1)));
    messages.extend([
        Message::assistant(first.text),
        Message::user("And a vegetable?"),
    ]);
    let second = run(&engine, &Request::chat(messages.clone(), greedy(24)));
    let prompt = engine.chat().prompt_tokens(&messages[..2]).unwrap();
    assert_eq!(second.usage.reused_tokens as usize, prompt.len());

    let again = run(&start(), &Request::chat(messages, greedy(24)));
    assert_eq!(
        (again.usage.reused_tokens, &again.tokens),
        (0, &second.tokens)
    );
}

#[test]
fn a_prompt_that_was_just_computed_is_reused_but_for_its_last_token() {
    let engine = engine();
    let request = ask("Say that again.", greedy(5));
    let first = run(&engine, &request);
    let second = run(&engine, &request);
    assert_eq!(second.usage.reused_tokens, second.usage.prompt_tokens - 1);
    assert_eq!(second.tokens, first.tokens);
}

#[test]
fn two_conversations_that_alternate_are_each_as_if_alone() {
    let engine = engine();
    let talk = |topics: &[&str]| {
        let begin = |topic: &&str| vec![Message::system(format!("Talk about {topic}."))];
        let mut conversations: Vec<_> = topics.iter().map(begin).collect();
        for question in ["Say one thing.", "Why?", "Go on."] {
            for conversation in &mut conversations {
                conversation.push(Message::user(question));
                let reply = run(&engine, &Request::chat(conversation.clone(), greedy(12)));
                conversation.push(Message::assistant(reply.text));
            }
        }
        conversations
    };
    let together = talk(&["cats", "ships"]);
    assert_ne!(together[0][2], together[1][2]);
    assert_eq!(together, [talk(&["cats"]), talk(&["ships"])].concat());
}

#[test]
fn prewarming_leaves_only_the_question_to_compute() {
    let engine = engine();
    let system = Message::system("You are a patient teacher with an example from the kitchen.");
    let cached = engine.prewarm(std::slice::from_ref(&system)).unwrap();
    let messages = vec![system.clone(), Message::user("What is heat?")];
    let prompt = engine.chat().prompt_tokens(&messages).unwrap();
    let reply = run(&engine, &Request::chat(messages, greedy(4)));
    // What was prewarmed ends where the assistant would speak; here the user speaks.
    let common = engine.chat().prompt_tokens(&[system]).unwrap();
    let common = common
        .iter()
        .zip(&prompt)
        .take_while(|(a, b)| a == b)
        .count();
    assert!(cached > 20 && common > 20);
    assert_eq!(reply.usage.reused_tokens as usize, common);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let engine = engine();
    let error = engine
        .generate(&ask(&"word ".repeat(2000), greedy(4)))
        .unwrap_err();
    let EngineError::PromptTooLong {
        prompt_tokens,
        n_ctx,
    } = error
    else {
        panic!("{error}")
    };
    assert!(prompt_tokens > 2000 && n_ctx == 1024);
    let message = error.to_string();
    assert!(
        message.contains(&prompt_tokens.to_string()) && message.contains("1024"),
        "{message}"
    );
}

#[test]
fn old_turns_are_dropped_if_asked_and_the_reply_says_how_many() {
    let engine = engine();
    let mut messages = vec![Message::system("You are brief.")];
    for i in 0..12 {
        messages.push(Message::user(format!(
            "Fact {i}: {}",
            "something to say ".repeat(10)
        )));
        messages.push(Message::assistant("Noted."));
    }
    messages.push(Message::user("What was the first fact?"));
    let refused = engine.generate(&Request::chat(messages.clone(), greedy(8)));
    assert!(matches!(refused, Err(EngineError::PromptTooLong { .. })));

    let options = GenerateOptions {
        overflow: Overflow::TruncateOldestTurns,
        ..greedy(8)
    };
    let reply = run(&engine, &Request::chat(messages.clone(), options.clone()));
    let dropped = reply.dropped_messages;
    assert!(
        dropped > 0 && dropped < 24 && dropped.is_multiple_of(2),
        "{dropped}"
    );
    assert!(reply.usage.prompt_tokens + 8 <= 1024);
    let kept = [&messages[..1], &messages[1 + dropped..]].concat();
    assert_eq!(
        reply.prompt_tokens,
        engine.chat().prompt_tokens(&kept).unwrap()
    );

    let alone = vec![messages[0].clone(), Message::user("word ".repeat(2000))];
    let error = engine.generate(&Request::chat(alone, options)).unwrap_err();
    assert!(
        matches!(error, EngineError::PromptTooLong { .. }),
        "the last turn is never dropped"
    );
}

#[test]
fn a_reply_ends_when_the_context_is_full() {
    let engine = engine();
    let mut tokens = engine
        .chat()
        .prompt_tokens(&[Message::user("Go on for ever.")])
        .unwrap();
    tokens.resize(1014, 100);
    // No end token among the likeliest here.
    let request = Request {
        prompt: Prompt::Tokens(tokens),
        options: greedy(100),
        with: With::Active,
    };
    let reply = run(&engine, &request);
    assert_eq!(
        (reply.stop_reason, reply.tokens.len()),
        (StopReason::ContextFull, 11)
    );
    assert_eq!(run(&engine, &request).tokens, reply.tokens);
}

#[test]
fn requests_that_make_no_sense_are_refused_at_once() {
    let engine = engine();
    let refused = |request: &Request| engine.generate(request).unwrap_err();
    for messages in [
        vec![],
        vec![Message::user("")],
        vec![Message::system("x"), Message::user(" \n")],
    ] {
        let error = refused(&Request::chat(messages, greedy(4)));
        assert!(matches!(error, EngineError::EmptyPrompt), "{error}");
    }
    let tokens = |tokens| Request {
        prompt: Prompt::Tokens(tokens),
        ..ask("", greedy(4))
    };
    assert!(matches!(refused(&tokens(vec![])), EngineError::EmptyPrompt));
    for (request, name) in [
        (tokens(vec![1, 99999]), "prompt"),
        (ask("Hi", greedy(0)), "max_tokens"),
        (
            ask(
                "Hi",
                GenerateOptions {
                    sampling: Sampling {
                        top_p: 2.0,
                        ..Sampling::plain()
                    },
                    ..greedy(4)
                },
            ),
            "top_p",
        ),
    ] {
        let error = refused(&request).to_string();
        assert!(error.contains(name), "{error}");
    }
    let adapter = adapter(&engine, "v1", 0.1);
    let other = Request {
        with: With::Adapter(adapter),
        ..ask("Hi", greedy(4))
    };
    let mixed = [ask("Hi", greedy(4)), other];
    assert!(
        engine
            .generate_batch(&mixed, 2)
            .unwrap_err()
            .to_string()
            .contains("with")
    );
    assert!(
        engine
            .generate_batch(&mixed[..1], 0)
            .unwrap_err()
            .to_string()
            .contains("max_parallel")
    );
    assert!(
        engine
            .generate_batch(&[], 4)
            .unwrap()
            .wait()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_batch_says_what_its_requests_say_alone() {
    // The fused attention kernel's last digits depend on what is computed together, and a draw may
    // hang on them.
    let options = EngineOptions {
        n_ctx: Some(1024),
        n_threads: Some(1),
        flash_attention: FlashAttention::Off,
        ..EngineOptions::default()
    };
    let source = ModelSource::File(model_path());
    let engine = Engine::start(source, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    let question = |i: u64| {
        ask(
            &format!("What do you say to number {}?", i % 7),
            draw(5 + (i * 11 % 40) as u32, i % 3),
        )
    };
    let mut requests: Vec<_> = (0..30).map(question).collect();
    requests.push(ask(&"A longer prompt. ".repeat(40), greedy(20)));
    for max_parallel in [1, 3, 16] {
        let together = engine
            .generate_batch(&requests, max_parallel)
            .unwrap()
            .wait()
            .unwrap();
        let mut shared = 0;
        for (request, reply) in requests.iter().zip(&together) {
            let alone = run(&engine, request);
            assert_eq!((&reply.tokens, &reply.text), (&alone.tokens, &alone.text));
            assert_eq!(reply.stop_reason, alone.stop_reason);
            assert_eq!(reply.prompt_tokens, alone.prompt_tokens);
            shared += reply.usage.reused_tokens;
        }
        assert!(
            max_parallel == 1 || shared > 0,
            "questions begin alike: {shared}"
        );
    }
}

#[test]
fn a_batch_runs_under_the_adapter_it_was_asked_for() {
    let engine = engine();
    let adapter = adapter(&engine, "v7", 0.3);
    let with = |with: With| {
        let requests: Vec<_> = (0..3)
            .map(|seed| Request {
                with: with.clone(),
                ..ask("Hi", draw(12, seed))
            })
            .collect();
        engine.generate_batch(&requests, 3).unwrap().wait().unwrap()
    };
    let (base, adapted) = (with(With::Base), with(With::Adapter(adapter)));
    assert!(base.iter().zip(&adapted).any(|(a, b)| a.tokens != b.tokens));
    assert!(base.iter().all(|reply| reply.adapter.is_none()));
    assert!(
        adapted
            .iter()
            .all(|reply| reply.adapter.as_deref() == Some("v7"))
    );
}

#[test]
fn swapping_an_adapter_clears_what_must_be_cleared() {
    let engine = engine();
    let request = ask("What is 2 + 2?", greedy(12));
    let base = run(&engine, &request);
    engine
        .set_adapter(Some(adapter(&engine, "v1", 0.3)))
        .unwrap();
    let with = run(&engine, &request);
    assert_eq!(
        (with.usage.reused_tokens, with.adapter.as_deref()),
        (0, Some("v1"))
    );
    assert_ne!(with.tokens, base.tokens);
    let reused = run(&engine, &request);
    assert_eq!(reused.usage.reused_tokens, reused.usage.prompt_tokens - 1);
    assert_eq!(reused.tokens, with.tokens);
    let without = run(
        &engine,
        &Request {
            with: With::Base,
            ..request.clone()
        },
    );
    assert_eq!((without.adapter, &without.tokens), (None, &base.tokens));
    engine.set_adapter(None).unwrap();
    assert_eq!(run(&engine, &request).tokens, base.tokens);

    let foreign = adapter(&start(), "v1", 0.3);
    assert!(
        engine.set_adapter(Some(foreign)).is_err(),
        "it belongs to another engine's model"
    );
    assert_eq!(run(&engine, &request).tokens, base.tokens);
}

#[test]
fn comparing_agrees_with_scoring_and_an_adapter_moves_away_from_the_base() {
    let engine = engine();
    let texts: Vec<_> = ["What is 2 + 2?", "Name a fruit."]
        .map(|question| {
            text(
                &engine,
                question,
                "It is a thing that everybody knows, of course.",
            )
        })
        .into();
    let adapter = adapter(&engine, "v1", 0.3);
    let never = Canceller::default();
    let base = engine.score(texts.clone(), With::Base, &never).unwrap();
    let adapted = engine
        .score(texts.clone(), With::Adapter(adapter.clone()), &never)
        .unwrap();
    let compared = engine
        .compare(texts.clone(), With::Base, With::Adapter(adapter), &never)
        .unwrap();
    for ((compared, base), adapted) in compared.iter().zip(&base).zip(&adapted) {
        assert!(close(&compared.logps_p, base) && close(&compared.logps_q, adapted));
        assert_ne!(base, adapted);
        let mut divergences = compared.kl_pq.iter();
        assert!(divergences.all(|&kl| kl > 0.0 && kl < 20.0), "{compared:?}");
    }
    let same = engine
        .compare(texts, With::Base, With::Base, &never)
        .unwrap();
    assert!(
        same.iter()
            .all(|c| c.kl_pq.iter().all(|&kl| kl.abs() < 1e-9))
    );
}

#[test]
fn scores_are_log_probabilities_of_the_whole_vocabulary() {
    let engine = engine();
    let prompt = engine
        .chat()
        .prompt_tokens(&[Message::user("Next?")])
        .unwrap();
    let n_vocab = engine.info().n_vocab as i32;
    let texts = (0..n_vocab).map(|token| ScoreText {
        prompt: prompt.clone(),
        completion: vec![token],
    });
    let scores = engine
        .score(texts.collect(), With::Base, &Canceller::default())
        .unwrap();
    let total: f64 = scores.iter().map(|score| score[0].exp()).sum();
    // Observed 2e-7: logits are f32.
    assert!((total - 1.0).abs() < 1e-5, "{total}");
}

#[test]
fn scoring_a_text_does_not_depend_on_the_texts_before_it() {
    let engine = engine();
    let texts = [
        text(&engine, "Name a fruit.", "An apple."),
        text(&engine, "Name a fruit.", "An apple, a pear."),
        text(&engine, "Who?", &"words and more words ".repeat(60)),
    ];
    let never = Canceller::default();
    let together = engine.score(texts.to_vec(), With::Base, &never).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        let alone = engine
            .score(vec![text.clone()], With::Base, &never)
            .unwrap();
        assert!(close(&alone[0], together));
    }
    never.cancel();
    let cancelled = engine.score(texts.to_vec(), With::Base, &never);
    assert!(matches!(cancelled, Err(EngineError::Cancelled)));
    let empty = ScoreText {
        prompt: vec![1],
        completion: vec![],
    };
    let refused = engine.score(vec![empty], With::Base, &Canceller::default());
    assert!(matches!(
        refused,
        Err(EngineError::CannotScore { index: 0, .. })
    ));
}

#[test]
fn a_model_without_a_template_runs_with_the_plain_one_and_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.gguf");
    TinyModel::llama()
        .writer()
        .remove("tokenizer.chat_template")
        .write_atomic(&path)
        .unwrap();
    let engine = common::start(&path, 1);
    assert!(
        engine
            .info()
            .warnings
            .iter()
            .any(|warning| warning.contains("no chat template"))
    );
    let prompt = engine.chat().prompt_tokens(&[Message::user("Hi")]).unwrap();
    let model = engine.chat().model();
    assert_eq!(
        prompt,
        model
            .tokenize("User: Hi\n\nAssistant:", false, true)
            .unwrap()
    );
    run(&engine, &ask("Hi", greedy(4)));
}

#[test]
fn what_is_asked_for_and_cannot_be_is_a_warning() {
    let options = EngineOptions {
        n_ctx: Some(3000),
        n_gpu_layers: Some(99),
        n_threads: Some(1),
        ..EngineOptions::default()
    };
    let source = ModelSource::File(model_path());
    let engine = Engine::start(source, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(
        (engine.info().n_ctx, engine.info().n_ctx_train),
        (3072, 1024)
    );
    let warnings = engine.info().warnings.join(";");
    assert!(
        warnings.contains("3072") && warnings.contains("1024"),
        "{warnings}"
    );
    if thumbprint_ggml::llama::gpu_devices().is_empty() {
        assert!(warnings.contains("CPU"), "{warnings}");
    }
}

#[test]
fn files_that_are_no_model_and_adapters_that_do_not_fit_are_refused() {
    let load = |path: PathBuf, flow| {
        Engine::start(
            ModelSource::File(path),
            &EngineOptions::default(),
            &mut |_| flow,
        )
    };
    let missing = load("nowhere.gguf".into(), ControlFlow::Continue(()));
    assert!(missing.unwrap_err().to_string().contains("nowhere.gguf"));
    let cancelled = load(model_path(), ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(EngineError::Cancelled)));

    let engine = engine();
    for source in [
        AdapterSource::Bytes(b"none".into()),
        AdapterSource::File("nowhere.gguf".into()),
    ] {
        let error = engine.load_adapter(source, "v", 1.0).unwrap_err();
        assert!(error.to_string().contains("adapter"), "{error}");
    }
    assert!(
        engine
            .load_adapter(AdapterSource::Bytes(vec![]), "v", f32::NAN)
            .is_err()
    );
}

#[test]
fn shutting_down_ends_everything_and_can_be_repeated() {
    let engine = start();
    let running = engine
        .generate(&ask("Count to one hundred.", greedy(900)))
        .unwrap();
    let waiting = engine.generate(&ask("Hi", greedy(4))).unwrap();
    let batch = engine.generate_batch(&[ask("Hi", greedy(4))], 1).unwrap();
    engine.shutdown();
    engine.shutdown();
    // Each was either finished by then, cut short, or never begun; none hangs.
    let cut = |reply: &Completed| reply.stop_reason == StopReason::Cancelled;
    let over = |result: Result<Completed, EngineError>| match result {
        Ok(reply) => cut(&reply) || !reply.tokens.is_empty(),
        Err(error) => matches!(error, EngineError::Stopped),
    };
    assert!(over(running.wait()) && over(waiting.wait()));
    assert!(batch.wait().is_ok_and(|replies| replies.len() == 1) || engine.info().n_ctx > 0);
    let request = ask("Hi", greedy(4));
    assert!(matches!(
        engine.generate(&request),
        Err(EngineError::Stopped)
    ));
    assert!(matches!(
        engine.generate_batch(&[request], 1),
        Err(EngineError::Stopped)
    ));
    assert!(matches!(
        engine.set_adapter(None),
        Err(EngineError::Stopped)
    ));
    assert!(!engine.demand().is_waiting());
}

fn text(engine: &Engine, question: &str, answer: &str) -> ScoreText {
    ScoreText {
        prompt: engine
            .chat()
            .prompt_tokens(&[Message::user(question)])
            .unwrap(),
        completion: engine.chat().completion_tokens(answer).unwrap(),
    }
}

/// One engine for all tests, one test at a time: cached prefixes are looked at.
fn engine() -> MutexGuard<'static, Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    ENGINE
        .get_or_init(|| Mutex::new(start()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn start() -> Engine {
    common::start(&model_path(), 1)
}

fn model_path() -> PathBuf {
    static PATH: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let write = || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        TinyModel::llama().write(&path);
        (dir, path)
    };
    PATH.get_or_init(write).1.clone()
}
