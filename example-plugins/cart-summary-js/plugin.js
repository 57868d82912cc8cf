// A summary of each shopping cart: the plugin `cart-summary` in JavaScript. Its documents equal
// those of the one in Rust.
//
// A stream is a cart. The collection `cart_summary` has one document per cart, with the stream's
// id: `items` (number), `total` (price in cents) and `status` (`open`, `checked-out` or
// `abandoned`).

import { documents, natural } from 'sandmill';

export const { description, projector } = documents({
  id: 'cart-summary',
  version: '0.1.0',
  collection: 'cart_summary',
  initial: { items: 0, total: 0, status: 'open' },
  events: {
    ItemAdded(cart, data) {
      const [quantity, price] = [natural(data, 'quantity'), natural(data, 'price')];
      return { ...cart, items: cart.items + quantity, total: cart.total + quantity * price };
    },
    // No negative numbers, even if more is removed than was added.
    ItemRemoved(cart, data) {
      const [quantity, price] = [natural(data, 'quantity'), natural(data, 'price')];
      return { ...cart, items: Math.max(0, cart.items - quantity), total: Math.max(0, cart.total - quantity * price) };
    },
    CartCheckedOut: (cart) => ({ ...cart, status: 'checked-out' }),
    CartAbandoned: (cart) => ({ ...cart, status: 'abandoned' }),
  },
});
