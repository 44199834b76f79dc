mod measure;
mod orders;
mod stage;
mod starts;
