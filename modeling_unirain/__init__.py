"""UniRain: one network that removes rain streaks and raindrops, by day and by night."""
