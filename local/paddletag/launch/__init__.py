"""One launch of several processes on one or more machines, watched until its end."""
