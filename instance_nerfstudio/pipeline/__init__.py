"""From photos to consistent masks: stages in one folder per scene, each done once and again when its inputs change."""
