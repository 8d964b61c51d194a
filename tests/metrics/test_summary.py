"""Evaluations printed: a line with a few numbers, without those that could not be had."""

from untrain import ConceptEvaluation, Evaluation, GenerationEvaluation


def test_an_evaluation_is_printed_in_a_few_numbers():
    whole = Evaluation(FA=91.23456, RA=100.0, TA=96.0, MIA=8.25, AvgD=1.5, KL=0.25, by_class={"FA": {"0": 1.0}})
    assert repr(whole) == str(whole) == "Evaluation(FA=91.23, RA=100, TA=96, MIA=8.25, AvgD=1.5)"
    assert repr(Evaluation(FA=0.0, missing={"AvgD": "needs a retrained model"})) == "Evaluation(FA=0)"
    assert repr(Evaluation()) == "Evaluation()"


def test_evaluations_of_generators_are_printed_likewise():
    classes = GenerationEvaluation(FA=1.0, RA=98.0, RA_worst=95.0, FD=1.25, sFD=3.0, precision=90.0)
    assert repr(classes) == "GenerationEvaluation(FA=1, RA=98, RA_worst=95, FD=1.25)"
    concept = ConceptEvaluation(FA=4.0, NR=0.5, CLIP=31.0, FID=12.5, samples={"forgotten": 9})
    assert repr(concept) == "ConceptEvaluation(FA=4, NR=0.5, CLIP=31, FID=12.5)"
