"""The paper's ablation on a user's data (section 4.1): several super-nets, trained alike but for MAN, on one ruler."""
