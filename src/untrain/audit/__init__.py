"""The audit: whether forgotten samples can be told from never-seen ones, by attacks whose false alarms are known."""
