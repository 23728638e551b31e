//! One split of the labels: a calibration on some of them, and what becomes of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::strangers::StrangerRow;
use matchpoint_calibration::certify::{
    Certificate, TargetFar, certify, certify_either_way, certify_scores,
};
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::growth::{Growth, ahead_of_growth};
use matchpoint_calibration::monitoring::traffic::{
    SearchFacts, SearchSigns, TrafficQuery, TrafficReference, TrafficWatch,
};
use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
use matchpoint_calibration::review::ReviewBand;
use matchpoint_calibration::trials::{MatedSearch, Top, Trials};

use crate::labelled_set::{LabelledSet, SeededDraws};
use crate::noticed::Noticed;
use crate::{CONFIDENCE, DELTA, FAR, LARGER, SEARCHES};

/// What one change came to.
pub(crate) struct Outcome {
    pub(crate) far: f64,
    pub(crate) certified: bool,
    /// Of the same searches: by vectors alone, and with what was measured of pictures.
    pub(crate) alarms: [TrafficAlarm; 2],
    pub(crate) noticed: Noticed,
}

/// When the comparison of traffic alarms, and what it names first.
pub(crate) struct TrafficAlarm {
    pub(crate) at: Option<u64>,
    pub(crate) named: String,
}

/// What became of searches with a review band, as shares of each label's queries, each label counting once.
pub(crate) struct Reviewed {
    /// Accepted with their label, seen by a person, rejected unseen or accepted with another label.
    pub(crate) mated: [f64; 3],
    /// Accepted, seen by a person, rejected unseen.
    pub(crate) strangers: [f64; 3],
}

/// One split of the labels: a calibration, and what is left to be traffic.
pub(crate) struct Draw<'a> {
    pub(crate) set: &'a LabelledSet,
    pub(crate) draws: SeededDraws,
    /// A stream of its own for the decisions of the audit.
    pub(crate) audited: SeededDraws,
    /// Enrolled: the first half is searched for at calibration, the second in traffic.
    pub(crate) enrolled: Vec<usize>,
    /// All strangers that there are, which those of the calibration are drawn from, and whose FAR is the true one.
    pub(crate) population: Vec<usize>,
    /// Those of the calibration; a label that was drawn twice is there twice.
    pub(crate) strangers: Vec<usize>,
    /// What can be enrolled later, of any kind.
    pub(crate) pool: Vec<usize>,
    /// Strangers of other kinds.
    pub(crate) others: Vec<usize>,
    /// By vectors alone, and with what was measured of pictures.
    pub(crate) references: [TrafficReference; 2],
}

/// What the stress report of a calibration would have to name.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum NamedBy<'a> {
    /// Nothing that it looks at.
    Nothing,
    /// The condition as the worst.
    WorstValue(&'a str),
    /// The nearest tenth of strangers.
    NearestTenth,
    /// The other kinds, if as many of them as of the tested ones are among the strangers, and named. These are the labels
    /// that are then judged, and the certificate is made without them.
    OtherKinds,
}

/// What traffic is after a change.
pub(crate) struct Changed<'a> {
    pub(crate) gallery: Vec<usize>,
    pub(crate) mated: Vec<usize>,
    pub(crate) strangers: Vec<usize>,
    pub(crate) condition: Option<&'a str>,
    /// Whether callers say it.
    pub(crate) said: bool,
    pub(crate) named_by: NamedBy<'a>,
}

impl<'a> Draw<'a> {
    pub(crate) fn of(set: &'a LabelledSet, seed: u64) -> Self {
        let mut draws = SeededDraws(seed);
        let all = 0..set.names.len();
        let searched =
            all.filter(|label| !set.of_label[*label].is_empty() && 0 < set.items[*label]);
        let (mut tested, mut others): (Vec<usize>, Vec<usize>) =
            searched.partition(|label| set.tested[*label]);
        draws.shuffle(&mut tested);
        draws.shuffle(&mut others);
        let part = |from: usize, to: usize| {
            tested[tested.len() * from / 100..tested.len() * to / 100].to_vec()
        };
        let half = others.len() / 2;
        let population = part(40, 85);
        let drawn = 200.min(2 * population.len() / 3);
        let strangers = (0..drawn).map(|_| population[draws.below(population.len())]);
        let strangers = strangers.collect();
        let mut draw = Self {
            set,
            draws,
            audited: SeededDraws(!seed),
            enrolled: part(0, 40),
            strangers,
            pool: [part(85, 100), others[..half].to_vec()].concat(),
            others: others[half..].to_vec(),
            population,
            references: [(); 2].map(|()| TrafficReference::of(&[], 0)),
        };
        let searched = &draw.enrolled[..draw.enrolled.len() / 2];
        let mated = searched
            .iter()
            .flat_map(|label| draw.traffic_queries(*label, true));
        let strangers: BTreeSet<usize> = draw.strangers.iter().copied().collect();
        let strangers = strangers
            .iter()
            .flat_map(|label| draw.traffic_queries(*label, false));
        let pictured: Vec<TrafficQuery> = mated.chain(strangers).collect();
        let mut plain = pictured.clone();
        for query in &mut plain {
            (query.picture, query.feature_length) = (None, None);
        }
        draw.references = [plain, pictured].map(|queries| TrafficReference::of(&queries, seed));
        draw
    }

    pub(crate) fn traffic_queries(&self, label: usize, mated: bool) -> Vec<TrafficQuery> {
        let query = |number: &usize| TrafficQuery {
            id: number.to_string(),
            label: self.set.names[label].clone(),
            mated,
            conditions: BTreeMap::from([(
                "condition".to_owned(),
                self.set.queries[*number].condition.clone(),
            )]),
            vector: Arc::clone(&self.set.queries[*number].vector),
            picture: self.set.queries[*number].picture,
            feature_length: self.set.queries[*number].feature_length,
        };
        self.set.of_label[label].iter().map(query).collect()
    }

    /// A certificate on one query of each of these labels.
    pub(crate) fn certificate(
        &mut self,
        labels: &[usize],
        target: TargetFar,
    ) -> Option<Certificate> {
        let set = self.set;
        let mut one = |label: &usize| {
            let of_it = &set.of_label[*label];
            set.best(of_it[self.draws.below(of_it.len())], &self.enrolled)
        };
        let scores = labels.iter().map(&mut one).collect();
        certify_scores(scores, labels.len() as u64, target).ok()
    }

    /// The share of strangers' searches that are accepted, each label counting once.
    pub(crate) fn far(&self, certificate: &Certificate, changed: &Changed<'_>) -> f64 {
        let of_label = |label: &usize| {
            let queries = self.set.of(*label, changed.condition);
            let best = |query: &usize| {
                certificate.threshold.get() <= self.set.best(*query, &changed.gallery).get()
            };
            let accepted = queries.iter().filter(|query| best(query)).count();
            (!queries.is_empty()).then(|| accepted as f64 / queries.len() as f64)
        };
        let shares: Vec<f64> = changed.strangers.iter().filter_map(of_label).collect();
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }

    /// When searches raise the alarm, and what it names. Labels of the calibration do not come again.
    pub(crate) fn alarms(&mut self, changed: &Changed<'_>) -> [TrafficAlarm; 2] {
        let set = self.set;
        let known: BTreeSet<usize> = self.strangers.iter().copied().collect();
        let mut strangers = changed.strangers.clone();
        strangers.retain(|label| !known.contains(label));
        let mut signs: BTreeMap<usize, [SearchSigns; 2]> = BTreeMap::new();
        let watch = |reference: &TrafficReference| TrafficWatch::new(reference, DELTA, 0);
        let mut watches = self.references.each_ref().map(watch);
        while watches[0].state().compared < SEARCHES {
            let labels = if self.draws.below(2) == 0 {
                &changed.mated
            } else {
                &strangers
            };
            let queries = set.of(labels[self.draws.below(labels.len())], changed.condition);
            if queries.is_empty() {
                continue;
            }
            let query = queries[self.draws.below(queries.len())];
            let signs = *signs
                .entry(query)
                .or_insert_with(|| self.signs(query, changed.said));
            for (watch, signs) in watches.iter_mut().zip(signs) {
                watch.observe(signs, false);
            }
        }
        watches.map(|watch| {
            let found = watch.assessment();
            let named = found.named().first().map(|share| share.name.clone());
            TrafficAlarm {
                at: found.alarm_at,
                named: named.unwrap_or_default(),
            }
        })
    }

    /// What shows of a query, to either comparison.
    fn signs(&self, query: usize, said: bool) -> [SearchSigns; 2] {
        let query = &self.set.queries[query];
        let condition = ("condition".to_owned(), query.condition.clone());
        let conditions: BTreeMap<String, String> = said.then_some(condition).into_iter().collect();
        let pictured = SearchFacts {
            vector: &query.vector,
            picture: query.picture,
            feature_length: query.feature_length,
            conditions: &conditions,
        };
        let plain = SearchFacts {
            picture: None,
            feature_length: None,
            ..pictured
        };
        let [by_vectors, by_pictures] = &self.references;
        [by_vectors.signs(&plain), by_pictures.signs(&pictured)]
    }

    pub(crate) fn outcome(&mut self, certificate: &Certificate, changed: &Changed<'_>) -> Outcome {
        let before: BTreeSet<usize> = self.enrolled.iter().copied().collect();
        let kept: Vec<usize> = changed
            .gallery
            .iter()
            .copied()
            .filter(|label| before.contains(label))
            .collect();
        let coverage = Coverage {
            calibrated: self.set.items_of(&self.enrolled),
            kept: self.set.items_of(&kept),
            items: self.set.items_of(&changed.gallery),
        };
        let alarms = self.alarms(changed);
        Outcome {
            noticed: Noticed::of(self, certificate, changed),
            far: self.far(certificate, changed),
            certified: coverage.far_bound(certificate.far_bound).unwrap() <= FAR,
            alarms,
        }
    }

    /// Labels of the pool, those nearest to the strangers of traffic first.
    pub(crate) fn look_alikes(&self) -> Vec<usize> {
        let queries: Vec<usize> = self
            .population
            .iter()
            .flat_map(|label| self.set.of(*label, None))
            .collect();
        let near = |label: usize| {
            let scores = queries
                .iter()
                .map(|query| f64::from(self.set.nearest[*query][label]));
            scores.fold(-1.0, f64::max)
        };
        let mut labels: Vec<(f64, usize)> = self
            .pool
            .iter()
            .map(|label| (near(*label), *label))
            .collect();
        labels.sort_by(|a, b| b.0.total_cmp(&a.0));
        labels.into_iter().map(|(_, label)| label).collect()
    }

    pub(crate) fn outcomes(&mut self) -> Vec<(String, Outcome)> {
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let strangers = self.strangers.clone();
        let Some(certificate) = self.certificate(&strangers, target) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, changed) in self.cases() {
            let outcome = self.outcome(&certificate, &changed);
            found.push((name, outcome));
        }
        if let Some(outcome) = self.grown(target) {
            let name = "growth by look-alikes, as much as was allowed for";
            found.push((name.to_owned(), outcome));
        }
        if let Some(outcome) = self.repeated(target) {
            let name = "20 strangers, each picture a label of its own";
            found.push((name.to_owned(), outcome));
        }
        found
    }

    /// A review band from as many mated labels as half of those enrolled, drawn from all of them, whose rate is the
    /// true one.
    pub(crate) fn reviewed(&mut self, unseen: f64) -> Option<Reviewed> {
        let (set, strangers) = (self.set, self.strangers.clone());
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let accept = self.certificate(&strangers, target)?.threshold;
        let mut search = |number: usize| {
            let label = self.enrolled[self.draws.below(self.enrolled.len())];
            let queries = &set.of_label[label];
            let query = queries[self.draws.below(queries.len())];
            let name = format!("label {number}");
            MatedSearch {
                label: name.clone(),
                probe: name,
                top: Some(Top {
                    score: set.best(query, &self.enrolled),
                    label_matches: set.best(query, &self.enrolled).get()
                        <= set.nearest[query][label],
                }),
            }
        };
        let mated = (0..self.enrolled.len() / 2).map(&mut search).collect();
        let trials = Trials::new(mated, Vec::new()).unwrap();
        let unseen = TargetFrr::new(unseen, CONFIDENCE).unwrap();
        let band = ReviewBand::certified(&trials, accept, unseen, 0).ok()?;
        let shares = |labels: &[usize], mated: bool| {
            let mut sums = [0.0; 3];
            for label in labels {
                for query in &set.of_label[*label] {
                    let best = set.best(*query, &self.enrolled);
                    let wrong = mated && set.nearest[*query][*label] < best.get();
                    let decision = accept.decide(Some(best));
                    let outcome = match decision {
                        Decision::Accept if wrong => 2,
                        Decision::Accept => 0,
                        _ if band.holds(decision, Some(best)) => 1,
                        Decision::Reject | Decision::Undecided => 2,
                    };
                    sums[outcome] += 1.0 / set.of_label[*label].len() as f64;
                }
            }
            sums.map(|sum| sum / labels.len() as f64)
        };
        Some(Reviewed {
            mated: shares(&self.enrolled, true),
            strangers: shares(&self.population, false),
        })
    }

    pub(crate) fn unchanged(&self) -> Changed<'a> {
        Changed {
            gallery: self.enrolled.clone(),
            mated: self.enrolled[self.enrolled.len() / 2..].to_vec(),
            strangers: self.population.clone(),
            condition: None,
            said: false,
            named_by: NamedBy::Nothing,
        }
    }

    pub(crate) fn cases(&self) -> Vec<(String, Changed<'a>)> {
        let (set, enrolled) = (self.set, &self.enrolled);
        let as_many = enrolled.len().min(self.pool.len());
        let of = |gallery: &[usize]| Changed {
            gallery: gallery.to_vec(),
            mated: gallery.to_vec(),
            ..self.unchanged()
        };
        let larger = [&enrolled[..], &self.pool].concat();
        let mut hardest = self.population.clone();
        hardest.sort_by_key(|label| {
            let queries = set.of(*label, None);
            let best = queries.iter().map(|query| set.best(*query, enrolled));
            std::cmp::Reverse(best.max())
        });
        hardest.truncate(self.population.len().div_ceil(10));
        let strangers = |strangers: Vec<usize>| Changed {
            strangers,
            ..self.unchanged()
        };
        let mut cases = vec![
            ("nothing".to_owned(), self.unchanged()),
            (
                "the gallery's items exchanged for others".to_owned(),
                of(&self.pool[..as_many]),
            ),
            (
                "the gallery's items exchanged for look-alikes of strangers".to_owned(),
                of(&self.look_alikes()[..as_many]),
            ),
            (LARGER.to_owned(), of(&larger)),
            (
                "strangers: the tenth that is nearest to the gallery".to_owned(),
                Changed {
                    named_by: NamedBy::NearestTenth,
                    ..strangers(hardest)
                },
            ),
        ];
        if !self.others.is_empty() {
            let name = "strangers of other kinds".to_owned();
            let changed = Changed {
                named_by: NamedBy::OtherKinds,
                ..strangers(self.others.clone())
            };
            cases.push((name, changed));
        }
        for condition in &set.conditions {
            for said in [false, true] {
                let changed = Changed {
                    condition: Some(condition),
                    said,
                    named_by: NamedBy::WorstValue(condition),
                    ..self.unchanged()
                };
                let by_callers = if said { ", and callers say so" } else { "" };
                cases.push((
                    format!("only the condition {condition}{by_callers}"),
                    changed,
                ));
            }
        }
        cases
    }

    /// Twice the items were allowed for, and those that came are nearest to the strangers of traffic.
    pub(crate) fn grown(&mut self, target: TargetFar) -> Option<Outcome> {
        let (set, strangers) = (self.set, self.strangers.clone());
        let now = set.items_of(&self.enrolled);
        let growth = Growth {
            items_now: now,
            items_later: 2 * now,
        };
        let ahead = ahead_of_growth(target, growth).unwrap();
        let certificate = self.certificate(&strangers, ahead)?;
        let mut changed = self.unchanged();
        for label in self.look_alikes() {
            if set.items_of(&changed.gallery) + set.items[label] <= 2 * now {
                changed.gallery.push(label);
            }
        }
        Some(self.outcome(&certificate, &changed))
    }

    /// As if each picture of 20 strangers was one more.
    pub(crate) fn repeated(&mut self, target: TargetFar) -> Option<Outcome> {
        let labels = self.labels_of_pictures(20);
        let certificate = self.taken(&labels, target).1[1]?;
        let changed = self.unchanged();
        let alarms = self.alarms(&changed);
        Some(Outcome {
            noticed: Noticed::of(self, &certificate, &changed),
            far: self.far(&certificate, &changed),
            certified: true,
            alarms,
        })
    }

    /// A label for each picture of so many strangers.
    pub(crate) fn labels_of_pictures(&self, strangers: usize) -> Vec<Vec<usize>> {
        let strangers = self.distinct().into_iter().take(strangers);
        let pictures = strangers.flat_map(|label| self.set.of(label, None));
        pictures.map(|picture| vec![picture]).collect()
    }

    /// The strangers of the calibration, none twice.
    pub(crate) fn distinct(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let strangers = self.strangers.iter().copied();
        strangers.filter(|label| seen.insert(*label)).collect()
    }

    /// How many of these labels, each with its pictures, may be others; what is certified if each is a stranger of
    /// its own, and what the product certifies.
    pub(crate) fn taken(
        &self,
        labels: &[Vec<usize>],
        target: TargetFar,
    ) -> (usize, [Option<Certificate>; 2]) {
        let set = self.set;
        let (mut searches, mut vectors) = (Vec::new(), Vec::new());
        for (number, pictures) in labels.iter().enumerate() {
            for picture in pictures {
                vectors.push(&set.queries[*picture].vector);
                searches.push(RecordedSearch {
                    probe: format!("{number} {picture}"),
                    label: format!("label {number}"),
                    truth: TrialKind::NeverEnrolled,
                    found: Some(RecordedMatch {
                        item: "item".to_owned(),
                        label: "enrolled".to_owned(),
                        score: set.best(*picture, &self.enrolled),
                        adjusted: None,
                        other: None,
                    }),
                    conditions: BTreeMap::new(),
                });
            }
        }
        let rows: Vec<StrangerRow<'_>> = searches
            .iter()
            .zip(vectors)
            .map(|(search, vector)| StrangerRow {
                label: &search.label,
                vector,
            })
            .collect();
        let items = usize::try_from(set.items_of(&self.enrolled)).unwrap();
        let found = CrowdedStrangers::find(&rows, &searches, items, &|_, _| true).unwrap();
        let repeats = found.map_or_else(BTreeMap::new, |found| found.repeats());
        let lost = repeats.len();
        let recording = Recording::new(searches).unwrap().with_repeats(repeats);
        let trials = recording.trials();
        let apart = certify(&trials.one_probe_per_label(0), target).ok();
        (lost, [apart, certify_either_way(trials, 0, target).ok()])
    }

    /// The share of mated searches that are rejected, or accepted with another label; each label counts once.
    pub(crate) fn frr(&self, certificate: &Certificate) -> f64 {
        let set = self.set;
        let missed = |label: &usize| {
            let missed = set.of_label[*label].iter().filter(|query| {
                let best = set.best(**query, &self.enrolled).get();
                best < certificate.threshold.get() || set.nearest[**query][*label] < best
            });
            missed.count() as f64 / set.of_label[*label].len() as f64
        };
        self.enrolled.iter().map(missed).sum::<f64>() / self.enrolled.len() as f64
    }

    /// What labels that may be one stranger come to, as they are taken and each by itself.
    pub(crate) fn counted(&self, labels: &[Vec<usize>]) -> CountedOnce {
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let (lost, [apart, either_way]) = self.taken(labels, target);
        let rates = |certificate: Certificate| {
            let far = self.far(&certificate, &self.unchanged());
            [far, self.frr(&certificate)]
        };
        CountedOnce {
            labels: labels.len(),
            lost,
            either_way: either_way.map(rates),
            apart: apart.map(rates),
        }
    }
}

/// What came of labels some of which may be one stranger.
pub(crate) struct CountedOnce {
    pub(crate) labels: usize,
    pub(crate) lost: usize,
    /// FAR and FRR; `None` if refused.
    pub(crate) either_way: Option<[f64; 2]>,
    /// The same with each label a stranger of its own.
    pub(crate) apart: Option<[f64; 2]>,
}
