//! On real data, where `PAWL_DATA` says that it is.

use std::{io::Read, path::PathBuf};

use pawl_judge::{Logged, OffPolicy};
use pawl_stats::rng::Stream;

/// The file below `PAWL_DATA`, unpacked; `None`, said plainly, where there is none.
fn data(path: &str) -> Option<String> {
    let Some(root) = std::env::var_os("PAWL_DATA") else {
        eprintln!("skipped: PAWL_DATA names no directory with {path}");
        return None;
    };
    let file = std::fs::File::open(PathBuf::from(root).join(path)).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    Some(text)
}

/// Successes and failures of the 80 items before the campaign `all` (Open Bandit Pipeline 0.4.1, `prior_bts.yaml`): the
/// Bernoulli Thompson policy `bts` draws from Beta(α, β) and shows the three best.
const ALPHA: [f64; 80] = [
    47.0, 8.0, 62.0, 142.0, 3.0, 14.0, 7.0, 857.0, 12.0, 15.0, 6.0, 100.0, 48.0, 23.0, 71.0, 61.0,
    13.0, 16.0, 518.0, 30.0, 7.0, 4.0, 23.0, 8.0, 10.0, 11.0, 11.0, 18.0, 121.0, 11.0, 11.0, 10.0,
    14.0, 9.0, 204.0, 58.0, 3.0, 19.0, 42.0, 1013.0, 2.0, 328.0, 15.0, 31.0, 14.0, 138.0, 45.0,
    55.0, 23.0, 38.0, 10.0, 401.0, 52.0, 6.0, 3.0, 6.0, 5.0, 32.0, 35.0, 133.0, 52.0, 820.0, 43.0,
    195.0, 8.0, 42.0, 40.0, 4.0, 32.0, 30.0, 9.0, 22.0, 6.0, 23.0, 5.0, 54.0, 8.0, 22.0, 65.0,
    246.0,
];
const BETA: [f64; 80] = [
    12198.0, 3566.0, 15993.0, 35522.0, 2367.0, 4609.0, 3171.0, 181_745.0, 4372.0, 4951.0, 3100.0,
    24665.0, 13210.0, 7061.0, 18061.0, 17449.0, 5644.0, 6787.0, 111_326.0, 8776.0, 3334.0, 2271.0,
    7389.0, 2659.0, 3665.0, 4724.0, 3561.0, 5085.0, 27407.0, 4601.0, 4756.0, 4120.0, 4736.0,
    3788.0, 45292.0, 14719.0, 2189.0, 5589.0, 11995.0, 222_255.0, 2308.0, 70034.0, 4801.0, 8274.0,
    5421.0, 31912.0, 12213.0, 13576.0, 6230.0, 10382.0, 4141.0, 85731.0, 12811.0, 2707.0, 2250.0,
    2668.0, 2886.0, 9581.0, 9465.0, 28336.0, 12062.0, 162_793.0, 12107.0, 41240.0, 3162.0, 11604.0,
    10818.0, 2923.0, 8897.0, 8654.0, 4000.0, 6580.0, 3174.0, 6766.0, 2602.0, 14506.0, 3968.0,
    7523.0, 16532.0, 51964.0,
];

/// A Gamma(shape, 1) draw for shapes of at least 1 (Marsaglia & Tsang 2000).
fn gamma(stream: &mut Stream, shape: f64) -> f64 {
    let d = shape - 1.0 / 3.0;
    loop {
        let x = stream.normal();
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && stream.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// The inverse-propensity value of `bts` on the log of the uniform policy is .0045529 (Saito et al. 2021, with the pipeline's
/// 100,000 draws); .00005 is four standard deviations of what such draws leave open.
#[test]
fn the_open_bandit_data_has_its_known_value() {
    let Some(text) = data("bandit_logs/obd_random_all.csv.gz") else { return };
    let mut stream = Stream::new(12);
    let mut shown = vec![[0.0; 3]; 80];
    let draws = 100_000;
    for _ in 0..draws {
        let mut theta: Vec<(f64, usize)> = (0..80)
            .map(|i| {
                let (a, b) = (gamma(&mut stream, ALPHA[i]), gamma(&mut stream, BETA[i]));
                (a / (a + b), i)
            })
            .collect();
        theta.sort_by(|x, y| y.0.total_cmp(&x.0));
        for (position, (_, item)) in theta.iter().take(3).enumerate() {
            shown[*item][position] += 1.0 / f64::from(draws);
        }
    }
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let header = csv.headers().unwrap().clone();
    let place = |name: &str| header.iter().position(|h| h == name).unwrap();
    let (item, position, click, p) =
        (place("item_id"), place("position"), place("click"), place("propensity_score"));
    let mut value = OffPolicy::default();
    for row in csv.records() {
        let row = row.unwrap();
        let number = |at: usize| row[at].parse::<f64>().unwrap();
        let target = shown[number(item) as usize][number(position) as usize - 1];
        value.take(&Logged {
            value: number(click),
            probability: number(p),
            target,
            expected_logged: 0.0,
            expected: 0.0,
        });
    }
    assert_eq!(value.n(), 10_000);
    let ips = value.ips();
    println!("{ips:?}, effective {}", value.effective());
    assert!((ips.value - 0.004_552_9).abs() < 5e-5, "{ips:?}");
}
