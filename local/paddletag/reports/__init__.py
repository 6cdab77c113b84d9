"""What people look at: figures, HTML pages and videos of sounds, tagging results and evaluations."""
