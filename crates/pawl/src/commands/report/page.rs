//! The report as one HTML page that needs nothing else.

use core::fmt::Write as _;

use serde_json::Value;

use super::{
    estimate, metrics, no_evidence, percent,
    plot::{self, Line, Point},
    short, time, verdict, without,
};
use crate::commands::model::{list, text};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:800px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.1em;margin:2em 0 .5em}\
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:1.5em 0}\
.card{border:1px solid #ccc;border-radius:6px;padding:10px 16px;min-width:150px}\
.card b{display:block;font-size:1.6em}.card small,.quiet{color:#555}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid #ddd;vertical-align:top}\
.number{text-align:right;font-variant-numeric:tabular-nums}\
svg{width:100%;height:auto}svg text{font-size:11px;fill:#555}.end{text-anchor:end}.grid{stroke:#ddd}\
.legend span{margin-right:16px}.legend i{display:inline-block;width:10px;height:10px;margin-right:5px}\
figure{margin:0;break-inside:avoid}@media print{body{margin:0;max-width:none;font-size:11pt}.card{break-inside:avoid}}";

/// Text in which no character means anything to HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn html(v: &Value) -> String {
    let name = escape(&text(v, "name"));
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>{name}</h1><div class=\"quiet\">{} to {} UTC, version {}, beside what <b>{}</b> would have given</div>",
        time(&v["from_ms"]),
        time(&v["to_ms"]),
        escape(&text(v, "production")),
        escape(&text(v, "incumbent")),
    );
    out += &cards(v);
    out += &table(v);
    out += &figures(v);
    out += &changes(v);
    out += "<h2>How to read it</h2><p class=\"quiet\">The incumbent is drawn with a known probability for a part of the \
            requests, the holdback at least. What the model expected of it on \
            each request, corrected by its values there weighted by one over that probability, says what it would have given on \
            all of them (Robins, Rotnitzky and Zhao 1994). Intervals hold the true value with 95 % confidence, each on its own. What has \
            not come is taken to be like what has. Fewer than 30 values of the incumbent are not compared. Decisions for which \
            it could not be drawn count in sums only.</p>";
    out + "</body></html>\n"
}

fn cards(v: &Value) -> String {
    let card = |what: &str, value: String, beside: String| {
        let (what, beside) = (escape(what), escape(&beside));
        format!("<div class=\"card\">{what}<b>{value}</b><small>{beside}</small></div>")
    };
    let mut out = "<div class=\"cards\">".to_owned();
    out += &card("decisions", v["decisions"].to_string(), String::new());
    for (name, goal, metric) in metrics(v) {
        out += &match verdict(goal, metric) {
            Some((what, value, [low, high])) => card(
                &format!("{name} {what}"),
                percent(value),
                format!("{} to {}", percent(low), percent(high)),
            ),
            None => card(name, "–".to_owned(), no_evidence(v, metric)),
        };
    }
    out + "</div>"
}

fn table(v: &Value) -> String {
    let mut out = "<h2>Metrics</h2><table><tr><th>metric<th class=\"number\">sum<th class=\"number\">values\
                   <th class=\"number\">without<th class=\"number\">a decision<th class=\"number\">the incumbent's\
                   <th class=\"number\">difference a decision</tr>"
        .to_owned();
    for (name, _, metric) in metrics(v) {
        let with = |e: &Value| match estimate(e) {
            Some((value, [low, high])) => {
                format!("{}<br><small>{} to {}</small>", short(value), short(low), short(high))
            }
            None => "–".to_owned(),
        };
        let cells = [
            short(metric["sum"].as_f64().unwrap_or_default()),
            metric["n"].as_f64().unwrap_or_default().to_string(),
            percent(without(v, metric)),
            with(&metric["served"]),
            with(&metric["incumbent"]),
            with(&metric["difference"]),
        ];
        let cells: String = cells.iter().map(|c| format!("<td class=\"number\">{c}")).collect();
        let _infallible = write!(out, "<tr><td>{}{cells}</tr>", escape(name));
    }
    out + "</table>"
}

fn figures(v: &Value) -> String {
    let (from, to) = (v["from_ms"].as_f64().unwrap_or(0.0), v["to_ms"].as_f64().unwrap_or(0.0));
    let ends = [time(&v["from_ms"]), time(&v["to_ms"])];
    let ends = [ends[0].as_str(), ends[1].as_str()];
    let at = |ms: f64| ((ms - from) / (to - from).max(1.0)).clamp(0.0, 1.0);
    let span = |page: &Value| {
        let begins = page["from_ms"].as_f64().unwrap_or(0.0);
        let ends = begins + page["length_ms"].as_f64().unwrap_or(0.0);
        [at(begins), at(ends)]
    };
    let pages: Vec<(&Value, [f64; 2])> = list(&v["pages"]).map(|p| (p, span(p))).collect();
    let middle = |[from, to]: [f64; 2]| f64::midpoint(from, to);
    let mut out = String::new();
    let mut figure = |title: String, svg: String| {
        if !svg.is_empty() {
            let _infallible = write!(out, "<figure><h2>{}</h2>{svg}</figure>", escape(&title));
        }
    };
    for (name, goal, _) in metrics(v) {
        let said = pages.iter().filter_map(|(page, span)| {
            let (_, value, interval) = verdict(goal, &page["metrics"][name.as_str()])?;
            Some(Point { at: middle(*span), value, interval: Some(interval) })
        });
        let what = if goal["goal"] == "min" { "saved" } else { "kept" };
        let line = Line { name: what, points: said.collect() };
        figure(format!("{name} {what}"), plot::lines(&[line], ends, true));
    }
    for (name, _, _) in metrics(v) {
        let points = |key: &str| -> Vec<Point> {
            pages
                .iter()
                .filter_map(|(page, span)| {
                    let (value, interval) = estimate(&page["metrics"][name.as_str()][key])?;
                    Some(Point { at: middle(*span), value, interval: Some(interval) })
                })
                .collect()
        };
        let lines = [
            Line { name: "served", points: points("served") },
            Line { name: "the incumbent's", points: points("incumbent") },
        ];
        figure(format!("{name} a decision"), plot::lines(&lines, ends, false));
    }
    let actions: Vec<&str> =
        v["by_action"].as_object().into_iter().flatten().map(|(a, _)| a.as_str()).collect();
    let bars: Vec<(f64, f64, Vec<f64>)> = pages
        .iter()
        .map(|(page, [from, to])| {
            let all = page["decisions"].as_f64().unwrap_or(0.0).max(1.0);
            let share = |a: &&str| page["by_action"][*a].as_f64().unwrap_or(0.0) / all;
            (*from, *to, actions.iter().map(share).collect())
        })
        .collect();
    if !bars.is_empty() {
        figure("Actions chosen".to_owned(), plot::shares(&actions, &bars, ends));
    }
    out
}

fn changes(v: &Value) -> String {
    let mut out = "<h2>What was changed</h2>".to_owned();
    if list(&v["changes"]).next().is_none() {
        return out + "<p>nothing</p>";
    }
    out += "<table><tr><th>when (UTC)<th>what<th>by<th>why</tr>";
    for change in list(&v["changes"]) {
        let who = change["principal"].as_str().unwrap_or("–");
        let why = change["why"].as_str().unwrap_or_default();
        let _infallible = write!(
            out,
            "<tr><td>{}<td>{} {}<td>{}<td>{}</tr>",
            time(&change["at_ms"]),
            escape(&text(change, "action")),
            escape(&text(change, "subject")),
            escape(who),
            escape(why)
        );
    }
    out + "</table>"
}
