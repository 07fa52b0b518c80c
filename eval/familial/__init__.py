"""What a family's members are worth: accuracy, speed and memory of each (`tofc eval familial`)."""
