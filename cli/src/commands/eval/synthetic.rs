//! Results that nothing was run for: what report, charts and verdicts are tested on.

use thumbprint_simulated_user::Random;

use super::results::{
    ALL, Average, Comparison, Results, Row, Sample, Shuffled, Ungated, UserFacts,
};
use super::statistics::Estimate;
use super::verdicts::verdicts;

/// An interval about a mean.
pub fn around(mean: f64, half: f64) -> Estimate {
    Estimate {
        mean,
        low: mean - half,
        high: mean + half,
    }
}

/// Two users, four arms, three n. The default does well for the first and badly for the second.
pub fn results() -> Results {
    let users = ["terse", "lister"];
    let arms = [
        ("base", 0),
        ("system_prompt", 0),
        ("sft", 50),
        ("default", 20),
        ("default", 50),
        ("default", 200),
    ];
    let mut random = Random::new(1);
    let mut noise = |scale: f64| scale * (random.below(1000) as f64 / 1000.0 - 0.5);
    let mut averages = Vec::new();
    let mut rows = Vec::new();
    for (place, user) in users.iter().enumerate() {
        for (arm, n) in arms {
            let good = match arm {
                "base" => 0.5,
                "default" => 0.6 + 0.1 * (n as f64 / 20.0).ln() - 0.25 * place as f64,
                _ => 0.68,
            };
            let rate = good + noise(0.02);
            let learns = arm == "sft" || arm == "default";
            averages.push(average(user, arm, n, rate));
            let seeds: Vec<u64> = if n == 0 { vec![0] } else { vec![1, 2] };
            for seed in seeds {
                let rejected = place == 1 && arm == "default" && n == 20;
                rows.push(Row {
                    user: (*user).to_owned(),
                    arm: arm.to_owned(),
                    n,
                    seed,
                    win_rate: rate,
                    ci: (rate - 0.07, rate + 0.07),
                    lc_win_rate: Some(rate - 0.05),
                    keyword_recall: 0.4,
                    opening_recall: 0.33,
                    ppl_ratio: learns.then_some(1.004),
                    kl: learns.then_some(0.06 + noise(0.05)),
                    kl_own_samples: learns.then_some(0.08),
                    mean_tokens: 90.0,
                    finished: 0.9,
                    state: match (learns, rejected) {
                        (true, true) => "rejected".to_owned(),
                        (true, false) => "trial".to_owned(),
                        _ => "-".to_owned(),
                    },
                    scale: learns.then_some(1.0625),
                    gain: rate - 0.5,
                    candidate_win_rate: rejected.then_some(0.41),
                    up: learns.then_some(n / 2),
                    down: learns.then_some(n - n / 2),
                    edits: learns.then_some(0),
                    seconds: learns.then_some(140.0 + n as f64),
                    phases: None,
                    peak_rss_mib: learns.then_some(420.0 + noise(30.0)),
                });
            }
        }
    }
    let comparison = |user: &str, users, arm: &str, difference| Comparison {
        user: user.to_owned(),
        arm: arm.to_owned(),
        n: 50,
        users,
        seeds: 2,
        difference,
    };
    let mut results = Results {
        size: "night".to_owned(),
        model: "A model".to_owned(),
        model_sha256: "0123456789abcdef".to_owned(),
        users_file: "locked.json".to_owned(),
        flips: 0.1,
        held_out_prompts: 200,
        done: 20,
        cells: 22,
        builds: vec!["one".to_owned()],
        users: users.map(user).to_vec(),
        rows,
        averages,
        comparisons: vec![
            comparison("terse", 1, "sft", around(0.9, 0.3)),
            comparison("lister", 1, "sft", around(-0.5, 0.3)),
            comparison(ALL, 2, "sft", around(0.2, 0.1)),
            comparison(ALL, 2, "system_prompt", around(0.1, 0.3)),
        ],
        shuffled: Some(Shuffled {
            logs: 20,
            trained: 2,
            trials: 1,
            allowed: 0.05,
            promoted: 0.003,
            rolled_back: 0.001,
            ungated: Some(Ungated {
                adapters: 4,
                win_rate: 0.52,
                promoted: 0.02,
            }),
        }),
        verdicts: Vec::new(),
    };
    results.verdicts = verdicts(&results);
    results
}

fn average(user: &str, arm: &str, n: usize, rate: f64) -> Average {
    let learns = arm == "sft" || arm == "default";
    Average {
        user: user.to_owned(),
        arm: arm.to_owned(),
        n,
        seeds: if n == 0 { 1 } else { 5 },
        prompts: 200,
        win_rate: around(rate, 0.05),
        lc_win_rate: Some(rate - 0.05),
        gain: around(rate - 0.5, 0.2),
        gain_over_oracle: Some((rate - 0.5) / 2.0),
        keyword_recall: 0.4,
        keyword_change: around(if user == "lister" { -0.08 } else { 0.01 }, 0.03),
        opening_recall: 0.33,
        opening_change: around(0.0, 0.03),
        mean_tokens: 60.0 + n as f64 / 4.0,
        tokens: around(60.0 + n as f64 / 4.0, 6.0),
        ppl_ratio: learns.then_some(1.004),
        kl: learns.then_some(0.07),
        trials: if learns { 5 } else { 0 },
        seconds: learns.then_some(140.0 + n as f64),
        peak_rss_mib: learns.then_some(420.0),
    }
}

fn user(name: &str) -> UserFacts {
    UserFacts {
        name: name.to_owned(),
        about: format!("Somebody called {name}."),
        edits: name == "lister",
        headroom: Some(0.7),
        oracle_gain: Some(2.0),
        headroom_prompts: 40,
        threshold: 0.1,
        temperature: 0.3,
        utility: Vec::new(),
        base_keyword_recall: 0.45,
        base_opening_recall: 0.33,
        base_mean_tokens: 150.0,
        base_finished: 0.4,
        samples: vec![Sample {
            question: "Why?".to_owned(),
            base: "Because | <b>\n\nso".to_owned(),
            default: "So.".to_owned(),
        }],
    }
}
