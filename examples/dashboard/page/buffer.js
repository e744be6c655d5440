// rsocket-js was written for Node, whose Buffer browsers do not have.
export { Buffer } from 'buffer';
