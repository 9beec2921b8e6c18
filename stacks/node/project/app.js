// chalk 5 is an ES module, which this cannot use: an upgrade breaks it.
const chalk = require("chalk");

console.log(chalk.green("it works"));
